"""The rules of `lint` that need to know which variables exist where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lamina.diagnostics.errors import nearest
from lamina.dockerfile.instructions import (
    AnyInstruction,
    Arg,
    Copy,
    Document,
    Env,
    Expose,
    Label,
    Run,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.dockerfile.lint import Finding, Subject, place
from lamina.dockerfile.words import Expander, Expansion, ExpansionError

_PLATFORM_ARGS = tuple(f"{side}{part}" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"))
_GLOBAL = frozenset((*_PLATFORM_ARGS, "TARGETSTAGE"))
# Names that nearly every base image or the shell gives; without a look at the base nothing can be said of them.
_USUAL = frozenset({"PATH", "HOME", "HOSTNAME", "USER", "LANG", "PWD"})
_REFERENCE = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/|\[[0-9a-fA-F:]+\](?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,})?\Z"
)


@dataclass(slots=True)
class _Scope:
    """The variables of a stage while it is walked. `complete` when everything is known that could be set."""

    values: dict[str, str] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    complete: bool = False
    workdir: bool = False


def _expand(document: Document, text: str, values: dict[str, str]) -> Expansion | None:
    """None for what the build refuses anyway."""
    try:
        return Expander(document.escape).word(text, values)
    except ExpansionError:
        return None


def _meta_values(document: Document) -> dict[str, str]:
    """Defaults of the ARGs before the first FROM, in the order of the file."""
    values: dict[str, str] = {}
    for arg in document.meta_args:
        for key, value in arg.pairs:
            found = _expand(document, value, values) if value is not None else None
            if found is not None:
                values[key] = found.result
    return values


def _words(item: AnyInstruction) -> tuple[str, ...]:
    """The words of an instruction that BuildKit expands."""
    match item:
        case Env() | Label():
            return tuple(word for pair in item.pairs for word in pair)
        case Arg():
            return tuple(value for _, value in item.pairs if value is not None)
        case Copy():
            flags = tuple(word for word in (item.flags.chown, item.flags.chmod, item.flags.checksum) if word)
            return (*item.sources, item.dest, *flags, *item.flags.exclude)
        case Run():
            return tuple(value for mount in item.mounts for _, value in mount.pairs if value)
        case Workdir():
            return (item.path,)
        case User():
            return (item.user,)
        case Expose():
            return item.ports
        case Volume():
            return item.paths
        case StopSignal():
            return (item.signal,)
    return ()


def _walk(subject: Subject) -> Iterator[tuple[Stage, AnyInstruction, _Scope]]:
    """Every instruction with the scope that it sees; the scope changes when the walk goes on."""
    document = subject.document
    meta = _meta_values(document)
    meta_names = {key for arg in document.meta_args for key, _ in arg.pairs}
    finished: dict[str, _Scope] = {}
    for stage in document.stages:
        base = stage.from_.base
        parent = finished.get(base.lower())
        scope = _Scope()
        if parent is not None:
            scope.values = {key: value for key, value in parent.values.items() if key not in parent.declared}
            scope.complete, scope.workdir = parent.complete, parent.workdir
        elif base == "scratch":
            scope.complete = True
        elif base in subject.base_names:
            scope.complete = True
            scope.values = dict.fromkeys(subject.base_names[base], "")
        for item in stage.instructions:
            yield stage, item, scope
            if isinstance(item, Env):
                found = [(key, _expand(document, value, scope.values)) for key, value in item.pairs]
                for key, expansion in found:
                    scope.values[key] = expansion.result if expansion else ""
                    scope.declared.discard(key)
            elif isinstance(item, Arg):
                for key, value in item.pairs:
                    if key in scope.values and key not in scope.declared:
                        continue  # an ENV hides an ARG
                    scope.declared.add(key)
                    expansion = _expand(document, value, scope.values) if value is not None else None
                    if expansion is not None:
                        scope.values[key] = expansion.result
                    elif value is None and key in meta:
                        scope.values[key] = meta[key]
                    elif key in _GLOBAL or key in meta_names:
                        scope.values.setdefault(key, "")
            elif isinstance(item, Workdir):
                scope.workdir = True
        if stage.name:
            finished[stage.name] = scope


def undefined_var(subject: Subject) -> Iterator[Finding]:
    """Of a base image whose variables are not known, only what looks like a slip of a known name is reported."""
    document = subject.document
    meta_names = {key for arg in document.meta_args for key, _ in arg.pairs}
    hint: str | None
    for _, item, scope in _walk(subject):
        reported: set[str] = set()
        for word in _words(item):
            expansion = _expand(document, word, scope.values)
            for name in sorted(expansion.unmatched if expansion else ()):
                if name in reported or name in scope.declared or not re.match(r"[A-Za-z_]", name):
                    continue
                reported.add(name)
                near = nearest(name, sorted(scope.values.keys() | scope.declared))
                if name in meta_names:
                    hint = f"ARG {name} in this stage makes it known here"
                elif near and (scope.complete or _is_slip(name, near)):
                    hint = f"did you mean ${near}?"
                elif scope.complete and name not in _USUAL:
                    hint = None
                else:
                    continue
                yield Finding(f"Usage of undefined variable '${name}'", place(item, name), hint)


def _is_slip(name: str, near: str) -> bool:
    """Whether two names differ by as little as a finger on the wrong key."""
    from difflib import SequenceMatcher

    return len(name) >= 5 and SequenceMatcher(None, name, near).ratio() >= 0.8 and name.rstrip("0123456789") != near.rstrip("0123456789")


def undefined_arg_in_from(subject: Subject) -> Iterator[Finding]:
    document = subject.document
    values = _meta_values(document) | dict.fromkeys(_GLOBAL, "")
    declared = {key for arg in document.meta_args for key, _ in arg.pairs}
    for stage in document.stages:
        for word in (stage.from_.base, stage.from_.platform):
            expansion = _expand(document, word, values)
            for name in sorted((expansion.unmatched if expansion else frozenset()) - declared):
                near = nearest(name, sorted(declared | _GLOBAL))
                hint = f"did you mean {near}?" if near else f"put ARG {name}=… before the first FROM"
                yield Finding(f"FROM argument '{name}' is not declared", place(stage.from_, name), hint)


def invalid_default_arg_in_from(subject: Subject) -> Iterator[Finding]:
    document = subject.document
    platform = {"BUILDPLATFORM": "linux/amd64", "TARGETPLATFORM": "linux/amd64", "BUILDOS": "linux", "TARGETOS": "linux"}
    values = dict.fromkeys(_GLOBAL, "") | platform | {"BUILDARCH": "amd64", "TARGETARCH": "amd64"} | _meta_values(document)
    for stage in document.stages:
        base = stage.from_.base
        expansion = _expand(document, base, values)
        if "$" in base and expansion is not None and not _REFERENCE.match(expansion.result):
            message = f"Default value for ARG {base} results in empty or invalid base image name"
            yield Finding(message, place(stage.from_, base), "give the ARG a default that makes a valid name")


def workdir_relative_path(subject: Subject) -> Iterator[Finding]:
    for _, item, scope in _walk(subject):
        if isinstance(item, Workdir) and not scope.workdir:
            expansion = _expand(subject.document, item.path, scope.values)
            path = expansion.result if expansion else ""
            known = expansion is not None and (scope.complete or not expansion.unmatched)
            if known and not path.startswith(("/", "\\")) and not re.match(r"[A-Za-z]:", path):
                message = f'Relative workdir "{path}" can have unexpected results if the base image changes'
                yield Finding(message, place(item, item.path), f"WORKDIR /{path}")


def copy_ignored_file(subject: Subject) -> Iterator[Finding]:
    rules = subject.ignore
    if not rules:
        return
    for _, item, scope in _walk(subject):
        if not isinstance(item, Copy) or item.flags.from_ is not None:
            continue
        for source in item.sources:
            expansion = _expand(subject.document, source, scope.values)
            if expansion is None or expansion.unmatched or re.match(r"(?:https?|git|ssh)://|git@", expansion.result):
                continue
            path = "/".join(part for part in expansion.result.split("/") if part not in ("", "."))
            if path and ".." not in path.split("/") and rules.ignored(path):
                verb = "Add" if item.add else "Copy"
                message = f'Attempting to {verb} file "{expansion.result}" that is excluded by .dockerignore'
                yield Finding(message, place(item, source), "add an exception to .dockerignore: !" + path)
