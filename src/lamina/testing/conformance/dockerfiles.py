"""Whole Dockerfiles: acceptance, stages, typed commands and lines against recorded results of BuildKit's parser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import mounts, parse
from lamina.dockerfile.ignore import parse_patterns
from lamina.dockerfile.instructions import (
    AnyInstruction,
    Arg,
    Cmd,
    Command,
    Copy,
    Document,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.testing.conformance import Outcome, compare, locate

Json = dict[str, object]


def run(directory: Path) -> Iterator[Outcome]:
    corpus = locate(directory, "corpus", "dockerfiles/corpus")
    expected = locate(directory, "expected", "dockerfiles/expected")
    for recorded in sorted(expected.glob("*.json")):
        name = recorded.name.removesuffix(".json")
        want = json.loads(recorded.read_text(encoding="utf-8"))
        if name.endswith(".dockerignore"):
            text = (corpus / name).read_text(encoding="utf-8", errors="surrogateescape")
            yield Outcome(name, compare("patterns", list(parse_patterns(text)), want.get("patterns") or []))
        else:
            text = (corpus / f"{name}.Dockerfile").read_bytes().decode("utf-8", "surrogateescape")
            yield Outcome(name, differences(parse(text), want))


def differences(document: Document, want: Json) -> tuple[str, ...]:
    """What is not as recorded, in words."""
    errors = [item for item in document.diagnostics if item.severity == "error"]
    recorded = want.get("error")
    if isinstance(recorded, dict):
        if not errors:
            return (f"accepted, recorded is the error {recorded['message']!r}",)
        lines = sorted({item.span.line for item in errors if item.span})
        line = max(int(recorded["line"]), 1)  # 0 stands for the start of the text
        return () if line in lines else (f"errors are at lines {lines}, recorded is line {line}: {recorded['message']!r}",)
    if errors:
        return tuple(f"refused at {item.span}: {item.message}" for item in errors)
    found = compare("escape", document.escape, want.get("escape"))
    found += compare("directives", [{"line": s.line, "name": n, "value": v} for n, v, s in document.directives], want.get("directives", []))
    found += _compare_commands("meta args", document.meta_args, want.get("meta_args"))
    stages = want.get("stages")
    assert isinstance(stages, list)
    found += compare("number of stages", len(document.stages), len(stages))
    for stage, other in zip(document.stages, stages):
        head = stage.from_
        got: Json = {"base": head.base, "name": head.name, "line": head.span.line, "end_line": head.span.end_line}
        if head.platform:
            got["platform"] = head.platform
        got |= _doc(head.comments, head.name)
        label = f"stage {stage.index}"
        found += compare(label, got, {key: value for key, value in other.items() if key != "commands"})
        found += _compare_commands(label, stage.instructions, other["commands"])
    return found


def _compare_commands(label: str, got: tuple[AnyInstruction, ...], want: object) -> tuple[str, ...]:
    assert isinstance(want, list)
    found = compare(f"number of commands of {label}", len(got), len(want))
    for instruction, other in zip(got, want):
        if "mounts_error" in other:
            other = {**other, "mounts_error": True}  # the wording is ours
        found += compare(f"{label}, line {other['line']}", describe(instruction), other)
    return found


def describe(instruction: AnyInstruction) -> Json:
    """An instruction in the shape of the recorded data."""
    result: Json = {
        "name": instruction.text.split(maxsplit=1)[0],
        "line": instruction.span.line,
        "end_line": instruction.span.end_line,
    }
    result.update(_fields(instruction))
    return result


def _fields(item: AnyInstruction) -> Json:
    match item:
        case Arg():
            return {"pairs": [{"key": key, "value": value} | _doc(item.comments, key) for key, value in item.pairs]}
        case Env() | Label():
            mark = {"no_delim": True} if item.legacy else {}
            return {"pairs": [{"key": key, "value": value, **mark} for key, value in item.pairs]}
        case Run():
            return _run(item)
        case Cmd():
            return _command(item.command)
        case Entrypoint():
            return _command(item.command) | ({} if item.command.words else {"cmdline": None})
        case Copy():
            return _copy(item)
        case Shell():
            return {"shell": list(item.words)}
        case Workdir():
            return {"path": item.path}
        case User():
            return {"user": item.user}
        case Expose():
            return {"ports": list(item.ports)}
        case Volume():
            return {"volumes": list(item.paths)}
        case StopSignal():
            return {"signal": item.signal}
        case Maintainer():
            return {"maintainer": item.name}
        case Onbuild():
            return {"expression": item.expression}
        case Healthcheck():
            return _healthcheck(item)
    return {}


def _doc(comments: tuple[str, ...], name: str) -> Json:
    """BuildKit takes a comment that begins with the name of what it stands above for its description."""
    prefix = f"{name} "
    found = next((line.removeprefix(prefix) for line in comments if name and line.startswith(prefix)), "")
    return {"doc": found} if found else {}


def _command(command: Command) -> Json:
    result: Json = {"cmdline": list(command.words), "prepend_shell": command.shell}
    if command.heredocs:
        result["files"] = [{"name": doc.name, "data": doc.raw, "chomp": doc.chomp} for doc in command.heredocs]
    return result


def _run(item: Run) -> Json:
    result = _command(item.command)
    used = []
    if item.mounts:
        used.append("mount")
        try:
            result["mounts"] = [_mount(mounts.evaluate(mount, lambda value: value)) for mount in item.mounts]
        except LaminaError:
            result["mounts_error"] = True
    for flag, value in (("network", item.network), ("security", item.security)):
        if value:
            used.append(flag)
            if value not in ("default", "sandbox"):
                result[flag] = value
    if item.devices:
        used.append("device")
        devices = [mounts.parse_device(value) for value in item.devices]
        result["devices"] = [{"name": device.name, "required": device.required} for device in devices]
    if used:
        result["flags_used"] = sorted(used)
    return result


def _mount(mount: mounts.Mount) -> Json:
    result: Json = {"type": mount.type}
    fields = (
        ("from", mount.from_),
        ("source", mount.source),
        ("target", mount.target),
        ("id", mount.id),
        ("sharing", mount.sharing),
        ("readonly", mount.readonly),
        ("required", mount.required),
        ("size", mount.size),
    )
    result.update({key: value for key, value in fields if value})
    result.update(
        {
            key: value
            for key, value in (("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid), ("env", mount.env))
            if value is not None
        }
    )
    return result


def _copy(item: Copy) -> Json:
    flags = item.flags
    result: Json = {"sources": list(item.sources), "dest": item.dest}
    if item.heredocs:
        result["contents"] = [{"path": doc.name, "data": doc.content, "expand": doc.expand} for doc in item.heredocs]
    fields = (
        ("from", flags.from_),
        ("chown", flags.chown),
        ("chmod", flags.chmod),
        ("link", flags.link),
        ("parents", flags.parents),
        ("exclude", list(flags.exclude)),
        ("checksum", flags.checksum),
    )
    result.update({key: value for key, value in fields if value})
    result.update({key: value for key, value in (("keep_git_dir", flags.keep_git_dir), ("unpack", flags.unpack)) if value is not None})
    return result


def _healthcheck(item: Healthcheck) -> Json:
    result: Json = {"test": list(item.test)}
    fields = (
        ("interval_ns", item.interval),
        ("timeout_ns", item.timeout),
        ("start_period_ns", item.start_period),
        ("start_interval_ns", item.start_interval),
        ("retries", item.retries),
    )
    result.update({key: value for key, value in fields if value})
    return result
