"""Which files of the project a RUN reads, as far as its text says it: the package managers whose installing needs a list of packages only.

Used for advice (lint, replay), never for keys: what is not known for sure is None.
"""

from __future__ import annotations

import re

from lamina.dockerfile.instructions import Run

Files = tuple[str, ...]
_LISTS: dict[tuple[str, str], Files] = {
    ("npm", "ci"): ("package.json", "package-lock.json"),
    ("npm", "install"): ("package.json", "package-lock.json"),
    ("npm", "i"): ("package.json", "package-lock.json"),
    ("yarn", "install"): ("package.json", "yarn.lock"),
    ("pnpm", "install"): ("package.json", "pnpm-lock.yaml"),
    ("pnpm", "i"): ("package.json", "pnpm-lock.yaml"),
    ("pipenv", "install"): ("Pipfile", "Pipfile.lock"),
    ("pipenv", "sync"): ("Pipfile", "Pipfile.lock"),
    ("bundle", "install"): ("Gemfile", "Gemfile.lock"),
    ("go", "mod"): ("go.mod", "go.sum"),
    ("mix", "deps.get"): ("mix.exs", "mix.lock"),
}
_WITH_FLAG: dict[tuple[str, str], tuple[str, Files]] = {
    # Without the flag these also build the project itself.
    ("poetry", "install"): ("--no-root", ("pyproject.toml", "poetry.lock")),
    ("uv", "sync"): ("--no-install-project", ("pyproject.toml", "uv.lock")),
    ("composer", "install"): ("--no-scripts", ("composer.json", "composer.lock")),
}
_NOTHING = frozenset(
    ("apt", "apt-get", "apk", "yum", "dnf", "microdnf", "zypper", "pacman", "tdnf", "useradd", "adduser", "groupadd", "addgroup",
     "usermod", "mkdir", "echo", "set", "export", "true", "update-ca-certificates", "locale-gen", "corepack", "rustup",
     "dpkg-reconfigure", "ln")
)  # fmt: skip
_CLEARING = re.compile(r"rm\s+(?:-\w+\s+)*/(?:var|tmp|root|usr)\S*(?:\s+/(?:var|tmp|root|usr)\S*)*\Z")
_PYTHON = re.compile(r"(?:python3?\s+-m\s+)?pip3?\s+install\s+(.*)\Z")


def needed(run: Run) -> Files | None:
    """() = nothing of the project; names = these, beside each other in its folder; None = not known.

    A RUN with mounts, here-documents or an own network is None: it says for itself what it reads.
    """
    if run.mounts or run.command.heredocs or run.network:
        return None
    text = run.command.words[0] if run.command.shell and run.command.words else " ".join(run.command.words)
    if re.search(r"\$\(|`|<|\.\./|\$\{?PWD", text):
        return None
    found: list[str] = []
    commands = [part.strip() for part in re.split(r"&&|\|\||[;\n|]", text.replace("\\\n", " "))]
    for command in commands:
        files = _of_command(command) if command else ()
        if files is None:
            return None
        found += [name for name in files if name not in found]
    return tuple(found) if any(commands) else None


def _of_command(command: str) -> Files | None:
    words = command.replace('"', "").replace("'", "").split()
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        words = words[1:]
    if not words:
        return ()
    if words[0] == "sudo":
        words = words[1:] or ["sudo"]
    python = _PYTHON.match(" ".join(words))
    if python:
        return _pip(python.group(1).split())
    if _CLEARING.match(" ".join(words)):
        return ()
    if words[0] in _NOTHING:
        return None if any(_local(word) for word in words[1:]) else ()
    verb = next((word for word in words[1:] if not word.startswith("-")), "install" if words[0] == "yarn" else "")
    plain = [word for word in words[1:] if not word.startswith("-") and word != verb]
    pair = (words[0], verb)
    if pair in _LISTS:
        if words[0] in ("npm", "pnpm", "yarn") and plain:
            return None if any(_local(word) for word in plain) else () if {"-g", "--global"} & set(words) else None
        if words[0] == "go":
            return _LISTS[pair] if plain == ["download"] else None
        return None if plain else _LISTS[pair]
    if pair in _WITH_FLAG:
        flag, files = _WITH_FLAG[pair]
        return files if flag in words and not plain else None
    if words[0] == "mvn" and any(word.startswith("dependency:") for word in (*plain, verb)):
        return ("pom.xml",)
    return None


def _pip(words: list[str]) -> Files | None:
    """The files of -r and -c; None where a folder is installed."""
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in ("-r", "--requirement", "-c", "--constraint"):
            found.append(next(rest, ""))
        elif word.startswith(("--requirement=", "--constraint=")):
            found.append(word.partition("=")[2])
        elif word.startswith("-r") and len(word) > 2:
            found.append(word[2:])
        elif word in ("-e", "--editable") or _local(word):
            return None
    if any(not name or name.startswith("/") or "$" in name for name in found):
        return None
    return tuple(found)


def _local(word: str) -> bool:
    """Whether a word names a file of the working directory."""
    return word.startswith(("./", "../", ".")) or word.endswith((".deb", ".rpm", ".whl", ".tgz", ".apk", ".tar.gz"))
