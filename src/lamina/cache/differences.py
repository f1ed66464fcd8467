"""How two keys' preimages differ, in words: the material that a reason is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from lamina.cache.record import InputPart, KeyParts
from lamina.cache.wording import around, digest_short, more, shorten, shown

if TYPE_CHECKING:
    from lamina.layer import listing
    from lamina.oci.digest import Digest

Plain = dict[str, Any]
"""JSON data of an operation (keys.op_parts)."""


class FileChange(Protocol):
    """One name that differs between two listings (lamina.layer.listing.Difference)."""

    @property
    def path(self) -> bytes: ...
    @property
    def change(self) -> str: ...
    @property
    def detail(self) -> str: ...


CompareFiles = Callable[[InputPart, InputPart], Sequence[FileChange]]
"""Old and new "files" part -> what differs; () when a listing is not there any more."""


class Difference(msgspec.Struct, frozen=True):
    """`code` is a reason's code. The lower `rank`, the closer to what the user did."""

    code: str
    message: str
    rank: int
    paths: tuple[str, ...] = ()


_ORDER = (
    ("schema-changed",),
    ("text-changed",),
    ("arg-changed",),
    ("env-changed",),
    ("platform-changed",),
    ("option-changed",),
    ("mount-changed",),
    ("file-changed", "file-added", "file-removed"),
    ("mode-changed", "owner-changed", "xattr-changed"),
    ("remote-changed",),
    ("base-changed",),
    ("parent-changed",),
)
_RANK = {code: rank for rank, codes in enumerate(_ORDER) for code in codes}

_OPTIONS = {
    "cwd": "WORKDIR",
    "user": "USER",
    "network": "--network",
    "security": "--security",
    "hostname": "host name",
    "hosts": "--add-host",
    "shm_size": "--shm-size",
    "ulimits": "--ulimit",
    "devices": "--device",
}

_DEFAULTS = {"network": "default", "security": "sandbox"}

_WORDS = {
    "chown": "--chown",
    "chmod": "--chmod",
    "exclude": "--exclude",
    "include": "--parents",
    "unpack": "unpacking",
    "dest": "destination",
    "name": "source",
    "path": "path",
    "mode": "mode",
    "data": "text",
}

_PATHS = 100  # as many are kept in a reason
_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)")

_FILE_CODES: dict[str, tuple[str, str]] = {
    "changed": ("file-changed", "changed"),
    "added": ("file-added", "added"),
    "removed": ("file-removed", "removed"),
    "mode-changed": ("mode-changed", "has another mode"),
    "owner-changed": ("owner-changed", "has another owner"),
    "xattrs-changed": ("xattr-changed", "has other extended attributes"),
}


def by_listings(load: Callable[[Digest], listing.Listing | None]) -> CompareFiles:
    """Compares the listings beside two parts; `load` gives None for one that is not there any more."""

    def compare(was: InputPart, now: InputPart) -> Sequence[FileChange]:
        before, after = (None if part.listing is None else load(part.listing) for part in (was, now))
        if before is None or after is None:
            return ()
        from lamina.layer.listing import compare as compare_listings

        return compare_listings(before, after)

    return compare


def differences(
    old: KeyParts, new: KeyParts, *, old_text: str, new_text: str, args: frozenset[str], compare: CompareFiles
) -> list[Difference]:
    """All of them, closest to the user first. `args`: names of build arguments among the variables. The root filesystem is told
    as base-changed or parent-changed without a cause; who knows the graph completes it."""
    if old.schema != new.schema:
        return [_difference("schema-changed", f"keys are made by other rules now (schema {old.schema} -> {new.schema})")]
    found: list[Difference] = []
    if old.op != new.op or _onto_nothing(old) != _onto_nothing(new):
        found += _operation(old.op, new.op, old_text, new_text, args)
    if old.op.get("type") == new.op.get("type"):
        found += _inputs(old, new, compare)
    return sorted(found, key=lambda difference: difference.rank)


def _difference(code: str, message: str, paths: tuple[str, ...] = ()) -> Difference:
    return Difference(code, message, _RANK[code], paths)


# Operations


def _operation(old: Plain, new: Plain, old_text: str, new_text: str, args: frozenset[str]) -> list[Difference]:
    found: list[Difference] = []
    if " ".join(old_text.split()) != " ".join(new_text.split()):
        before, after = around(old_text, new_text)
        found.append(_difference("text-changed", f"instruction changed: {before} -> {after}"))
    if old.get("type") != new.get("type"):
        return found or [_difference("text-changed", "another kind of instruction stood here")]
    if new.get("type") == "exec":
        return found + _exec(old, new, args, text_told=bool(found))
    if old == new:
        return found
    if new.get("type") == "file":
        # The words of a COPY or WORKDIR: a changed text says it already.
        return found or _file(old["actions"], new["actions"], new_text, args)
    return found or [_difference("option-changed", "an option of the source changed")]


def _exec(old: Plain, new: Plain, args: frozenset[str], *, text_told: bool) -> list[Difference]:
    found: list[Difference] = []
    if old["args"] != new["args"]:
        if old["args"][-1:] == new["args"][-1:]:
            found.append(
                _difference("option-changed", f"SHELL: {shorten(' '.join(old['args'][:-1]))} -> {shorten(' '.join(new['args'][:-1]))}")
            )
        elif not text_told and " ".join(old["args"]).split() == " ".join(new["args"]).split():
            found.append(_difference("text-changed", f"only white space of the command changed: {shorten(' '.join(new['args'][-1:]))}"))
        elif not text_told:
            before, after = around(" ".join(old["args"]), " ".join(new["args"]))
            found.append(_difference("text-changed", f"command changed: {before} -> {after}"))
    found += _environment(old["env"], new["env"], args)
    if old["platform"] != new["platform"]:
        found.append(_difference("platform-changed", f"platform: {old['platform']} -> {new['platform']}"))
    for name, word in _OPTIONS.items():
        if old.get(name) != new.get(name):
            before, after = (_plain(op.get(name, _DEFAULTS.get(name))) for op in (old, new))
            found.append(_difference("option-changed", f"{word}: {before} -> {after}"))
    found += _mounts(old.get("mounts", []), new.get("mounts", []))
    return found


def _environment(old: list[str], new: list[str], args: frozenset[str]) -> list[Difference]:
    before, after = (dict(pair.partition("=")[::2] for pair in env) for env in (old, new))
    found: list[Difference] = []
    for name in [*after, *(name for name in before if name not in after)]:
        was, now = before.get(name), after.get(name)
        if was != now:
            code, word = ("arg-changed", f"build argument {name}") if name in args else ("env-changed", f"variable {name}")
            found.append(_difference(code, word + _change(name, was, now)))
    if not found and old != new:
        names = [name for name, other in zip(after, before) if name != other]
        found.append(_difference("env-changed", f"variables are set in another order: {shorten(', '.join(names))}"))
    return found


def _change(name: str, was: str | None, now: str | None) -> str:
    before, after = (None if value is None else shown(name, value) for value in (was, now))
    if was is None:
        return f" is new ({after})" if after is not None else " is new"
    if now is None:
        return " is gone"
    return f": {before} -> {after}" if before is not None and after is not None else " changed"


def _file(old: list[Plain], new: list[Plain], text: str, args: frozenset[str]) -> list[Difference]:
    """Same text, other words: variables in it have other values."""
    names = list(dict.fromkeys(_VARIABLE.findall(text)))
    through = f" (through ${', $'.join(names)})" if names else ""
    code = "text-changed" if not names else "arg-changed" if not args or args.intersection(names) else "env-changed"
    if len(old) != len(new):
        return [_difference(code, f"{len(old)} -> {len(new)} sources{through}")]
    found: list[Difference] = []
    for was, now in zip(old, new):
        for field in dict.fromkeys([*now, *was]):
            if was.get(field) != now.get(field):
                found.append(_word(field, was.get(field), now.get(field), names, through, code))
    return found


def _word(field: str, was: object, now: object, names: list[str], through: str, code: str) -> Difference:
    word = _WORDS.get(field, field)
    if field == "data" or any(shown(name, "") is None for name in names):
        return _difference(code, f"{word} changed{through}")
    return _difference(code, f"{word}: {_plain(was)} -> {_plain(now)}{through}")


def _mounts(old: list[Plain], new: list[Plain]) -> list[Difference]:
    before, after = ({(m["type"], m["target"], m.get("id", "")): m for m in mounts} for mounts in (old, new))
    found: list[Difference] = []
    for key, mount in after.items():
        if key not in before:
            found.append(_difference("mount-changed", f"new mount: {_mount(mount)}"))
        elif mount != before[key]:
            fields = [f for f in dict.fromkeys([*mount, *before[key]]) if mount.get(f) != before[key].get(f)]
            found.append(
                _difference("mount-changed", f"mount {_mount(mount)}: {', '.join(_MOUNT_WORDS.get(f, f) for f in fields)} changed")
            )
    found += [_difference("mount-changed", f"mount is gone: {_mount(mount)}") for key, mount in before.items() if key not in after]
    if not found and old != new:
        found.append(_difference("mount-changed", "mounts stand in another order"))
    return found


_MOUNT_WORDS = {
    "own": "id or sharing",
    "owner": "mode or owner",
    "readonly": "readonly",
    "required": "required",
    "namespace": "id",
}


def _mount(mount: Plain) -> str:
    return shorten(" ".join(word for word in (mount["type"], mount.get("id", ""), mount["target"]) if word))


def _plain(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, list | tuple):
        return shorten(", ".join(_plain(item) for item in value))
    return "yes" if value is True else shorten(str(value))


# Inputs


def _inputs(old: KeyParts, new: KeyParts, compare: CompareFiles) -> list[Difference]:
    found: list[Difference] = []
    if old.inputs and new.inputs and old.inputs[0].id != new.inputs[0].id:
        found.append(_root(old.inputs[0], new.inputs[0]))
    if len(old.inputs) != len(new.inputs):
        longer, word = (new, "watched now") if len(new.inputs) > len(old.inputs) else (old, "not watched any more")
        watched = [part.label for part in longer.inputs if part.kind == "watch"]
        return [*found, *(_difference("remote-changed", f"{shorten(label)} is {word}") for label in watched[-1:])]
    blanks = [""] * len(new.inputs)  # watched URLs have no name
    names = zip([*_names(old.op), *blanks], [*_names(new.op), *blanks])
    for was, now, (was_name, name) in zip(old.inputs[1:], new.inputs[1:], names):
        # Files of two different sources are not compared: that the source is another one was said before.
        if was.id != now.id and was_name == name:
            found += _input(was, now, name, compare)
    return found


def _names(op: Plain) -> list[str]:
    """What the user calls each input after the first: a COPY source's base name, a mount's target."""
    if op.get("type") == "file":
        return [action["name"] for action in op["actions"] if action["action"] == "copy"]
    mounts = op.get("mounts", [])
    return [m["target"] for m in mounts if (m["type"] == "bind" and not m.get("empty")) or m.get("source")]


def _path(name: str, path: bytes) -> str:
    """Names in a listing are relative to the source; the source's own name stands before them as the user wrote it. A path that begins
    with `./` or `/` is a whole one: in a context, in a filesystem."""
    text = path.decode(errors="backslashreplace")
    if text.startswith(("./", "/")):
        return text.removeprefix("./") or "."
    if not text:
        return name or "/"
    if name.startswith("/") or any(sign in name for sign in "*?[") or text == name or text.startswith(name + "/"):
        return text
    return f"{name}/{text}" if name else text


def _onto_nothing(parts: KeyParts) -> bool:
    """COPY --link makes a layer of its own: the flag is in no operation, it takes the filesystem below away."""
    return bool(parts.inputs) and parts.inputs[0].id == "scratch"


def _root(was: InputPart, now: InputPart) -> Difference:
    """A base image's label is REFERENCE@DIGEST (or just REFERENCE), a step's is `stage …` or nothing."""
    if not _is_base(now):
        return _difference("parent-changed", "the filesystem that it builds on changed")
    before, _, before_digest = was.label.partition("@")
    after, _, after_digest = now.label.partition("@")
    if not _is_base(was):
        return _difference("base-changed", f"builds on base {shorten(after)} now")
    if before != after:
        return _difference("base-changed", f"base: {shorten(before)} -> {shorten(after)}")
    moved = f": {digest_short(before_digest)} -> {digest_short(after_digest)}" if before_digest and after_digest else ""
    return _difference("base-changed", f"base {shorten(after)} moved{moved}")


def _is_base(part: InputPart) -> bool:
    return bool(part.label) and not part.label.startswith("stage ")


def _input(was: InputPart, now: InputPart, name: str, compare: CompareFiles) -> list[Difference]:
    label = shorten(now.label)
    if now.kind == "url":
        return [_difference("remote-changed", f"{label} has other bytes than before")]
    if now.kind == "git":
        return [_difference("remote-changed", f"{label}: commit {was.id[:10]} -> {now.id[:10]}")]
    if now.kind == "watch":
        return [_difference("remote-changed", f"{label} (watched) changed")]
    if now.kind in ("image", "filesystem"):
        return [_difference("file-changed", f"{label or 'a mounted filesystem'} changed")]
    kind, inline, variables = now.label.partition("inline document")  # the name of the vertex that lowering makes for it
    if inline and kind.startswith("[internal]"):
        through = f" ({shorten(variables, 100)})" if variables else ""
        return [_difference("text-changed", f"the here-document{through} changed")]
    where = "" if now.label in ("", "context") else f" in {label}"
    grouped: dict[tuple[str, str], list[str]] = {}
    details: dict[tuple[str, str], str] = {}
    for change in compare(was, now):
        group = _FILE_CODES.get(change.change, _FILE_CODES["changed"])
        grouped.setdefault(group, []).append(_path(name, change.path))
        if change.detail:
            details.setdefault(group, f" ({change.detail})")
    if not grouped:
        return [_difference("file-changed", f"files of {'the context' if not where else label} changed")]
    return [
        _difference(code, f"{shorten(paths[0])} {word}{details.get((code, word), '')}{where}{more(len(paths) - 1)}", tuple(paths[:_PATHS]))
        for (code, word), paths in grouped.items()
    ]
