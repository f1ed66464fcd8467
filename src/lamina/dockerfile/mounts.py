"""`RUN --mount` and `--device`: what is written, and what it means once its variables are known.

BuildKit checks very little when it reads the file and all the rest when the stage's variables are known: `split_mount` is the
first step, `evaluate` the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.dockerfile.csvfields import csv_fields
from lamina.dockerfile.instructions import RunMount

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_KEYS = (
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class MountError(LaminaError):
    """A `--mount` or `--device` that says something impossible."""

    code = "dockerfile/mount"
    default_exit = 2


class Mount(msgspec.Struct, frozen=True):
    """A `--mount` with all variables expanded. `readonly` has the type's default where nothing was said; "" = not given."""

    type: str
    from_: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    id: str = ""
    sharing: str = ""
    required: bool = False
    size: int = 0  # bytes
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


class Device(msgspec.Struct, frozen=True):
    name: str
    required: bool = False


def split_mount(value: str) -> tuple[tuple[str, str | None], ...]:
    """The pairs of a `--mount` as written, keys in lower case. Raises MountError for what BuildKit refuses while reading."""
    try:
        fields = csv_fields(value)
    except ValueError as error:
        raise MountError(f"--mount={value}: {error}") from None
    pairs: list[tuple[str, str | None]] = []
    for written in fields:
        key, equals, text = written.partition("=")
        lowered = key.lower()
        if equals and lowered == "from" and re.search(r"\$.", text):
            raise MountError(
                f"from={text}: variables are not expanded here", hint="name the stage with FROM image AS name and use from=name"
            )
        pairs.append((lowered if equals or lowered in _KEYS else key, text if equals else None))
    return tuple(pairs)


def evaluate(mount: RunMount, expand: Callable[[str], str]) -> Mount:
    """Give a mount its meaning; `expand` expands the variables of a value. Raises MountError, located at the flag."""
    try:
        return _evaluate(mount.pairs, expand)
    except LaminaError as error:
        if not error.spans:
            error.spans = (mount.span,)
        raise


def _evaluate(pairs: tuple[tuple[str, str | None], ...], expand: Callable[[str], str]) -> Mount:
    kind, from_, source, target, id_, sharing = "bind", "", "", "", "", ""
    readonly: bool | None = None
    required = False
    size = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None
    for key, written in pairs:
        if written is None and key not in ("readonly", "ro", "readwrite", "rw", "required"):
            raise MountError(f'"{key}" must be key=value', hint=_key_hint(key))
        value = "" if written is None else expand(written)
        if key == "type":
            kind = value.lower()
            if kind not in TYPES:
                raise MountError(f'unknown mount type "{value}"', hint=_hint(value, TYPES))
        elif key == "from":
            from_ = value
        elif key in ("source", "src"):
            source = value
        elif key in ("target", "dst", "destination"):
            target = value
        elif key in ("readonly", "ro"):
            readonly = written is None or _boolean(key, value)
        elif key in ("readwrite", "rw"):
            readonly = not (written is None or _boolean(key, value))
        elif key == "required":
            _only(key, kind, ("secret", "ssh"))
            required = written is None or _boolean(key, value)
        elif key == "size":
            _only(key, kind, ("tmpfs",))
            size = _size(value)
        elif key == "id":
            id_ = value
        elif key == "sharing":
            sharing = value.lower()
            if sharing not in SHARING:
                raise MountError(f'unknown sharing "{value}"', hint=_hint(value, SHARING))
        elif key == "mode":
            mode = _number(key, value, 8)
        elif key == "uid":
            uid = _number(key, value, 10)
        elif key == "gid":
            gid = _number(key, value, 10)
        elif key == "env":
            _only(key, kind, ("secret",))
            env = value
        else:
            raise MountError(f'unknown key "{key}"', hint=_hint(key, _KEYS))
    mount = Mount(
        kind,
        from_,
        source,
        target,
        kind not in ("cache", "tmpfs") if readonly is None else readonly,
        id_,
        sharing,
        required,
        size,
    )
    for key, number in (("mode", mode), ("uid", uid), ("gid", gid)):
        if number is not None:
            _only(key, kind, ("secret", "ssh", "cache"))
    _check_secret(mount, env)
    if sharing and kind != "cache":
        raise MountError(f"sharing={sharing} is for cache mounts, this is a {kind} mount")
    return Mount(kind, from_, source, target, mount.readonly, id_, sharing, required, size, mode, uid, gid, env)


def _check_secret(mount: Mount, env: str | None) -> None:
    if mount.type != "secret":
        return
    if mount.from_:
        raise MountError("a secret mount has no from")
    if not mount.source and not mount.target and not mount.id and not env:
        raise MountError("a secret mount needs an id, a source or a target", hint="--mount=type=secret,id=NAME")
    if mount.source and mount.id:
        raise MountError("a secret mount has either a source or an id")


def _only(key: str, kind: str, kinds: tuple[str, ...]) -> None:
    if kind not in kinds:
        raise MountError(f"{key} is for {' and '.join(kinds)} mounts, this is a {kind} mount", hint="type=… must stand before it")


def _hint(word: str, candidates: tuple[str, ...]) -> str:
    near = nearest(word, candidates)
    return f"did you mean {near}?" if near else "one of " + ", ".join(candidates)


def _key_hint(key: str) -> str | None:
    near = nearest(key, _KEYS)
    return f"{near}=…" if near else None


def _boolean(key: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise MountError(f"{key}={value}: must be true or false")


def _number(key: str, value: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not value or value.strip(digits) or int(value[:24], base) >= 2**32:
        raise MountError(f"{key}={value}: must be a{'n octal' if base == 8 else ''} number below 2^32")
    return int(value[:24], base)


def _size(value: str) -> int:
    found = re.match(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?([kmgtpe]?)(?:i?b)?\Z", value.lower())
    if not found:
        raise MountError(f"size={value}: must be a size such as 64m or 1g")
    return int(float(found[1]) * 1024 ** (" kmgtpe".index(found[2]) if found[2] else 0))


def parse_device(value: str) -> Device:
    """`--device=NAME[,required]`. Raises MountError."""
    try:
        fields = csv_fields(value)
    except ValueError as error:
        raise MountError(f"--device={value}: {error}") from None
    name = ""
    required = False
    for written in fields:
        key, equals, text = written.partition("=")
        key = key.lower()
        if key == "required":
            required = _boolean(key, text) if equals else True
        elif equals and key == "name":
            if name:
                raise MountError(f"--device has two names, {name} and {text}")
            name = text
        elif not name:
            name = written
        else:
            raise MountError(
                f'unknown key "{key}" in --device' if equals else f'"{written}" must be key=value',
                hint=_hint(key, ("name", "required")),
            )
    return Device(name, required)
