"""`ADD git…` and git contexts: a reference becomes a commit, a commit becomes a folder of files. Uses the git command.

git runs with an empty configuration, no hooks, no prompts and only the protocols https, http, git, ssh (and file when asked for):
a repository is somebody else's input.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.store.removal import remove

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SCP = re.compile(r"(?P<user>[A-Za-z0-9._-]+)@(?P<host>[A-Za-z0-9._-]+):(?P<path>[^#?]+)\Z")
_FREE = 1 << 30  # bytes that any commit may come to
_RATIO = 200  # times what was fetched
_MOST_FILES = 5_000_000
_SCHEMES = ("https", "http", "git", "ssh", "file")


class InvalidGitUrl(LaminaError):
    code = "git/invalid-url"
    default_exit = 65


class GitFailed(LaminaError):
    """git is missing, the repository cannot be read, or it has no such reference."""

    code = "git/failed"
    default_exit = 69


class CommitMismatch(LaminaError):
    """The reference is not at the commit that --checksum names."""

    code = "git/checksum-mismatch"
    default_exit = 65


class GitUrl(msgspec.Struct, frozen=True):
    """`remote` is what git is given. `ref` "" = the default branch. Options that a query form states are None when it does not."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str | None = None
    keep_git_dir: bool | None = None
    submodules: bool | None = None


def parse_git_url(text: str) -> GitUrl | None:
    """BuildKit's forms of a git reference; None when it is not one (an http URL counts only with a path ending in .git).

    InvalidGitUrl for a query that it would refuse.
    """
    from urllib.parse import parse_qsl, urlsplit, urlunsplit

    address, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    plain, _, query = address.partition("?")
    if _SCP.match(plain):
        found = GitUrl(plain, ref, subdir)
    elif re.match(r"github\.com/[^/]+/[^/]+", plain):
        found = GitUrl(f"https://{plain}", ref, subdir)
    else:
        try:
            parts = urlsplit(plain)
        except ValueError:
            return None
        if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
            return None
        if parts.scheme in ("http", "https") and not parts.path.rstrip("/").endswith(".git"):
            return None
        found = GitUrl(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), ref, subdir)
    if query:
        found = _with_query(found, parse_qsl(query, keep_blank_values=True), bool(fragment))
    if found.remote.startswith("-") or found.ref.startswith("-"):
        raise InvalidGitUrl(f"{text!r} is no git reference")
    return msgspec.structs.replace(found, subdir=_subdir(found.subdir))


def resolve(url: GitUrl, *, ssh: Path | None = None, timeout: float = 120.0) -> str:
    """The full commit id that `url.ref` names now; a full id is taken as it is. `ssh`: an agent's socket or a key file. GitFailed."""
    if _COMMIT.match(url.ref):
        return _checked(url.ref, url.checksum, url)
    wanted = url.ref or "HEAD"
    patterns = ["HEAD"] if wanted == "HEAD" else [wanted, f"{wanted}^{{}}"]
    lines = _git(["ls-remote", "--", url.remote, *patterns], ssh=ssh, timeout=timeout).splitlines()
    found = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
    tag = f"refs/tags/{wanted}"
    for name in (wanted, f"{tag}^{{}}", tag, f"refs/heads/{wanted}", f"{wanted}^{{}}", f"refs/{wanted}"):
        if f"{name}^{{}}" in found:
            return _checked(found[f"{name}^{{}}"], url.checksum, url)
        if name in found:
            return _checked(found[name], url.checksum, url)
    raise GitFailed(f"{_plain(url.remote)} has no reference {wanted!r}", hint="name a branch, a tag, or a full commit id")


def checkout(
    url: GitUrl,
    commit: str,
    into: Path,
    *,
    keep_git_dir: bool = False,
    submodules: bool = True,
    ssh: Path | None = None,
    timeout: float = 600.0,
) -> None:
    """Put the files of `commit` (below `url.subdir`) into the folder `into`, which is made. On failure it is removed. GitFailed."""
    if not _COMMIT.match(commit):
        raise GitFailed(f"{commit!r} is no commit id")
    work = Path(tempfile.mkdtemp(prefix="git-", dir=into.parent))
    try:
        _fetch(url, commit, work, ssh, timeout)
        _bounded(url, commit, work)
        _git(["checkout", "--quiet", "--force", "--detach", commit], cwd=work, timeout=timeout)
        if submodules and (work / ".gitmodules").is_file():
            _git(["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"], cwd=work, ssh=ssh, timeout=timeout)
        if not keep_git_dir:
            _drop_git(work)
        elif url.subdir:
            raise GitFailed("a sub-folder of a repository cannot keep its .git", hint="leave out --keep-git-dir or the sub-folder")
        source = _inside(work, url.subdir, url)
        source.rename(into)
    except OSError as error:
        raise GitFailed(f"cannot check out {_plain(url.remote)}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            remove(work)
    into.chmod(0o755)


def _fetch(url: GitUrl, commit: str, work: Path, ssh: Path | None, timeout: float) -> None:
    _git(["init", "--quiet", "--template=", "--initial-branch=main", "."], cwd=work, timeout=timeout)
    _git(["remote", "add", "origin", url.remote], cwd=work, timeout=timeout)
    base = ["fetch", "--quiet", "--no-tags", "--force"]
    try:
        _git([*base, "--depth=1", "origin", commit], cwd=work, ssh=ssh, timeout=timeout)
        return
    except GitFailed:
        pass  # a server may refuse single commits: then the reference, then everything
    if url.ref and not _COMMIT.match(url.ref):
        try:
            _git([*base, "--depth=1", "origin", url.ref], cwd=work, ssh=ssh, timeout=timeout)
            _git(["cat-file", "-e", f"{commit}^{{commit}}"], cwd=work, timeout=timeout)
            return
        except GitFailed:
            pass
    _git([*base, "origin", "+refs/*:refs/remotes/origin/*"], cwd=work, ssh=ssh, timeout=timeout)


def _bounded(url: GitUrl, commit: str, work: Path) -> None:
    """GitFailed for a commit whose files are far more than what was fetched, or more than any file system likes: a few kilobytes of trees that
    name each other can mean billions of files."""
    fetched = sum(path.stat().st_size for path in (work / ".git" / "objects").rglob("*") if path.is_file())
    limit = max(_FREE, _RATIO * fetched)
    size = count = 0
    with tempfile.TemporaryDirectory(prefix="git-home-") as home:
        command = _command(["ls-tree", "-r", "-l", "-z", "--full-tree", commit])
        with subprocess.Popen(
            command, cwd=work, env=_environment(home, None), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            assert child.stdout is not None
            rest = b""
            while piece := child.stdout.read(1 << 16):
                *entries, rest = (rest + piece).split(b"\0")
                for entry in entries:
                    length = entry.partition(b"\t")[0].rpartition(b" ")[2]
                    size += int(length) if length.isdigit() else 0
                count += len(entries)
                if size > limit or count > _MOST_FILES:
                    child.kill()
                    what = f"{limit >> 20} MB, far more than was fetched" if size > limit else f"{_MOST_FILES} files"
                    raise GitFailed(f"{_plain(url.remote)} is refused: at {commit[:12]} it has more than {what}")
        if child.returncode:  # what cannot be listed has no bound
            raise GitFailed(f"{_plain(url.remote)}: the files of {commit[:12]} cannot be listed")


def _with_query(url: GitUrl, pairs: Sequence[tuple[str, str]], fragment: bool) -> GitUrl:
    if fragment:
        raise InvalidGitUrl("a git URL has either a query or a fragment, not both")
    for name, value in pairs:
        match name:
            case "ref" | "branch" | "tag":
                prefix = {"ref": "", "branch": "refs/heads/", "tag": "refs/tags/"}[name]
                if url.ref:
                    raise InvalidGitUrl("a git URL names one of ref, branch and tag")
                url = msgspec.structs.replace(url, ref=prefix + value)
            case "subdir":
                url = msgspec.structs.replace(url, subdir=value)
            case "checksum" | "commit":
                url = msgspec.structs.replace(url, checksum=value)
            case "keep-git-dir":
                url = msgspec.structs.replace(url, keep_git_dir=_truth(value))
            case "submodules":
                url = msgspec.structs.replace(url, submodules=_truth(value))
            case _:
                raise InvalidGitUrl(f"unknown query key {name!r} in a git URL")
    if url.checksum is not None and not re.match(r"[0-9a-f]{7,64}\Z", url.checksum):
        raise InvalidGitUrl(f"{url.checksum!r} is no commit id")
    return url


def _truth(value: str) -> bool:
    if value.lower() in ("", "1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidGitUrl(f"{value!r} is neither true nor false")


def _subdir(text: str) -> str:
    """Cleaned by name; '..' stops at the root."""
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _checked(commit: str, checksum: str | None, url: GitUrl) -> str:
    if checksum is not None and not commit.startswith(checksum):
        raise CommitMismatch(f"{_plain(url.remote)} is at {commit}, not at {checksum}")
    return commit


def verify(commit: str, checksum: str | None, url: GitUrl) -> None:
    """`--checksum`: a commit id or its beginning. CommitMismatch."""
    _checked(commit, checksum, url)


def _drop_git(work: Path) -> None:
    """Also those of submodules. Each goes to a name of ours first: what is beside it in the tree stays."""
    grave = work.with_name(f"{work.name}-old")
    todo = [os.fsencode(work)]
    while todo:
        folder = todo.pop()
        with os.scandir(folder) as found:
            items = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
        for name, is_folder in items:
            if name == b".git":
                os.rename(os.path.join(folder, name), grave)
                remove(grave)
            elif is_folder:
                todo.append(os.path.join(folder, name))


def _inside(work: Path, subdir: str, url: GitUrl) -> Path:
    """The sub-folder, no link on the way: a repository's links could lead anywhere."""
    here = work
    for part in subdir.split("/") if subdir else ():
        here = here / part
        if here.is_symlink() or not here.is_dir():
            raise GitFailed(f"{_plain(url.remote)} has no folder {subdir!r} at this commit")
    return here


def _git(arguments: Sequence[str], *, cwd: Path | None = None, ssh: Path | None = None, timeout: float) -> str:
    with tempfile.TemporaryDirectory(prefix="git-home-") as home:
        try:
            done = subprocess.run(
                _command(arguments),
                cwd=cwd or home,
                env=_environment(home, ssh),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
                umask=0o022,  # a checkout's modes are the same everywhere
            )
        except FileNotFoundError as error:
            raise GitFailed("git is not installed", hint="install git, or copy the files from the context") from error
        except subprocess.TimeoutExpired as error:
            raise GitFailed("git gave no answer in time", transient=True) from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = next((line for line in said if line.startswith("fatal:")), said[-1] if said else f"exit code {done.returncode}")
        raise GitFailed(
            f"git {arguments[0]}: {_plain(reason.removeprefix('fatal: '))}", transient="resolve host" in reason or "timed out" in reason
        )
    return done.stdout.decode("utf-8", "replace")


def _command(arguments: Sequence[str]) -> list[str]:
    settings = ["core.hooksPath=/dev/null", "core.fsmonitor=false", "advice.detachedHead=false", "gc.auto=0", "core.autocrlf=false"]
    return ["git", *[word for setting in settings for word in ("-c", setting)], *arguments]


def _environment(home: str, ssh: Path | None) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": home,
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        **_ssh(ssh),
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
    }


def _ssh(given: Path | None) -> dict[str, str]:
    """The environment for `--ssh default`: an agent's socket, or a key file. Without it nothing of the user's is offered but his own files."""
    command = "ssh -oBatchMode=yes"
    if given is None:
        return {"GIT_SSH_COMMAND": command}
    if given.is_socket():
        return {"GIT_SSH_COMMAND": command, "SSH_AUTH_SOCK": str(given)}
    return {"GIT_SSH_COMMAND": f"{command} -oIdentitiesOnly=yes -i {shlex.quote(str(given))}"}


def _plain(text: str) -> str:
    """Without a password in a URL."""
    return re.sub(r"(://)[^/@\s']*@", r"\1", text)
