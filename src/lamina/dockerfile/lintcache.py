"""Rules of lamina's own: what makes later steps run for nothing, and secrets that BuildKit's rule does not see."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lamina.dockerfile.instructions import AnyInstruction, Arg, Copy, Env, Onbuild, Run, Stage
from lamina.dockerfile.lint import Finding, Subject, place
from lamina.dockerfile.needs import needed

KEY_HINT = (
    "RUN --mount=type=ssh git clone …, built with --ssh default; or RUN --mount=type=secret,id=key,target=/root/.ssh/id_ed25519 …, "
    "built with --secret id=key,src=$HOME/.ssh/id_ed25519"
)
SECRET_HINT = (
    "RUN --mount=type=secret,id={id},env={name} …, built with --secret id={id},env={name}: it is in no layer, no history and no key"
)
_PRIVATE = re.compile(r"private_?key|ssh_?key|deploy_?key|(?:^|_)(?:id_)?(?:rsa|dsa|ecdsa|ed25519)(?:_|$)|(?:^|_)pem(?:_|$)", re.IGNORECASE)
_MANY = 2  # RUNs that an ARG costs for nothing before it is worth a word
_SYSTEM = re.compile(r"/(?:etc|usr|lib|bin|sbin|root|var|tmp|opt)(?:/|\Z)(?!(?:src|app)\b)")
_INSTALLS = re.compile(r"(?<![\w/.-])(?:apt|apt-get|apk|yum|dnf|microdnf|tdnf|zypper|pacman|pip3?|npm|corepack|rustup)\s")
_URL = re.compile(r"(?:https?|git|ssh)://|[\w.-]+@[\w.-]+:")


def is_private_key(name: str) -> bool:
    """By its name: SSH_PRIVATE_KEY, DEPLOY_KEY, ID_RSA."""
    return _PRIVATE.search(name) is not None and "public" not in name.lower()


def secret_hint(name: str) -> str:
    """How to do without a secret in ARG or ENV."""
    return KEY_HINT if is_private_key(name) else SECRET_HINT.format(id=name.lower(), name=name)


def private_key_in_arg(subject: Subject) -> Iterator[Finding]:
    """What SecretsUsedInArgOrEnv does not see: names without one of its words, values that are keys, keys that a RUN writes to .ssh."""
    for stage in subject.document.stages:
        for position, item in enumerate(stage.instructions):
            if not isinstance(item, Arg | Env):
                continue
            kind = "ARG" if isinstance(item, Arg) else "ENV"
            for name, value in item.pairs:
                seen = re.search(r"(?:_|^)key(?:_|$)", name, re.IGNORECASE)
                held = "PRIVATE KEY-----" in (value or "")
                if held or (not seen and (is_private_key(name) or _goes_to_ssh(stage, position, name))):
                    yield Finding(
                        f'{kind} "{name}" holds a private key: everyone who has the image or its cache can read it',
                        place(item, name),
                        KEY_HINT,
                    )


def _goes_to_ssh(stage: Stage, position: int, name: str) -> bool:
    later = [item for item in stage.instructions[position + 1 :] if isinstance(item, Run)]
    text = re.compile(rf"\$\{{?{re.escape(name)}\b[^;&\n]*(?:\.ssh/|ssh-add)")
    return any(text.search(item.text) for item in later)


def latest_base(subject: Subject) -> Iterator[Finding]:
    names: set[str] = {"scratch"}
    for stage in subject.document.stages:
        base = stage.from_.base
        last = base.rpartition("/")[2]
        if base.lower() not in names and "@" not in base and "$" not in base and (":" not in last or last.endswith(":latest")):
            message = f"{base} is another image each time its publisher pushes one: the same commit gives other images"
            yield Finding(
                message,
                place(stage.from_, base),
                f"name a version, {last.partition(':')[0]}:1.2, or a digest, {last.partition(':')[0]}@sha256:…",
            )
        if stage.name:
            names.add(stage.name)


def arg_in_many_keys(subject: Subject) -> Iterator[Finding]:
    """An ARG counts for every RUN after it, named or not; those before the first that names it, or all, run again for nothing."""
    for stage in subject.document.stages:
        for position, item in enumerate(stage.instructions):
            if not isinstance(item, Arg):
                continue
            for name, _ in item.pairs:
                later = (*stage.instructions[position + 1 :], *_inheriting(subject, stage))
                runs = [step for step in later if isinstance(step, Run)]
                naming = [step for step in later if _names(step, name)]
                first = later.index(naming[0]) if naming else len(later)
                idle = [step for step in later[:first] if isinstance(step, Run)]
                if len(idle) < _MANY or _hidden(later[:first], name):
                    continue
                named = sum(1 for step in runs if _names(step, name))
                message = (
                    f"ARG {name} is in {len(runs)} keys, named by {named}: another value runs {len(idle)} steps again that do not use it"
                )
                hint = f"declare it right before line {naming[0].span.line}" if naming else "remove it, or build with --arg-scope=named"
                yield Finding(message, place(item, name), hint)


def _inheriting(subject: Subject, stage: Stage) -> list[AnyInstruction]:
    """What stands in the stages that begin with this one: its ARGs hold there too."""
    names = {stage.name} - {""}
    found: list[AnyInstruction] = []
    for other in subject.document.stages[stage.index + 1 :]:
        if other.from_.base.lower() in names:
            found += other.instructions
            names.add(other.name)
    return found


def _names(step: AnyInstruction, name: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", step.text) is not None and not isinstance(step, Onbuild)


def _hidden(steps: tuple[AnyInstruction, ...], name: str) -> bool:
    """An ENV of that name takes its place."""
    return any(isinstance(step, Env) and name in dict(step.pairs) for step in steps)


def copy_before_install(subject: Subject) -> Iterator[Finding]:
    """A COPY of much, and then a RUN that installs packages by a list: each change of any file installs again."""
    for stage in subject.document.stages:
        copies: list[Copy] = []
        told: set[int] = set()
        for step in stage.instructions:
            if (
                isinstance(step, Copy)
                and step.flags.from_ is None
                and not step.heredocs
                and not all(_URL.match(source) for source in step.sources)
            ):
                if _SYSTEM.match(step.dest):
                    copies, told = [], set()  # a list of package sources or the like: what follows stays behind it
                else:
                    copies.append(step)
            if not isinstance(step, Run) or not copies:
                continue
            files = needed(step)
            if files == () and not _INSTALLS.search(step.text):
                continue
            if files is None:
                copies, told = [], set()  # it may need all that was copied: what follows cannot go before it
                continue
            wanted = {name.rpartition("/")[2] for name in files}
            idle = [copy for copy in copies if not _only(copy, wanted) and id(copy) not in told]
            if idle:
                copy = idle[0]
                told.add(id(copy))
                command = step.text.split(maxsplit=1)[1].split("\n")[0]
                short = command if len(command) <= 40 else command[:39] + "…"
                lists = f"COPY {' '.join(files)} ./ → " if files and not any(_only(one, wanted) for one in copies) else ""
                needs = f"needs only {' and '.join(files)}" if files else "needs none of these files"
                message = f"every change of a file that this copies runs line {step.span.line} again ({short}), which {needs}"
                yield Finding(message, place(copy, copy.text.split(maxsplit=1)[0]), f"better order: {lists}RUN {short} → {copy.text}")


def _only(copy: Copy, wanted: set[str]) -> bool:
    """Whether it copies nothing but package lists."""
    return bool(wanted) and all(_listed(source.rpartition("/")[2], wanted) for source in copy.sources)


def _listed(source: str, wanted: set[str]) -> bool:
    from fnmatch import fnmatchcase

    return source not in ("", ".", "*") and any(fnmatchcase(name, source) for name in wanted)
