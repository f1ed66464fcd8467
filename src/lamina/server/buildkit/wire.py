"""Protocol buffers' wire format for messages that are declared here as structs: a field is `Annotated[type, number]`.

    class Stat(Message):
        path: Annotated[str, 1] = ""
        xattrs: Annotated[dict[str, bytes], 10] = {}

Types: str, bytes, int (int32, int64, uint32, enums), bool, another Message or None, a list of these, a dict[str, …]. Only the fields that
are used are declared; others are skipped, as the format wants it. What comes in is a stranger's: WireError for anything malformed.
"""

from __future__ import annotations

import functools
import types
import typing
from typing import TypeVar

import msgspec

from lamina.diagnostics.errors import LaminaError

_MOST = 200_000  # items of one list or dict
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(LaminaError):
    code = "server/protobuf"


class Message(msgspec.Struct):
    """All fields have a default, which is what is absent on the wire."""


M = TypeVar("M", bound=Message)
Scalar = str | bytes | int | Message


class _Field(msgspec.Struct, frozen=True):
    number: int
    name: str
    type: type
    shape: typing.Literal["one", "list", "dict"]


@functools.cache
def _fields(kind: type[Message]) -> dict[int, _Field]:
    if kind in _declared:
        return _declared[kind]
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        inner, number = typing.get_args(hint)
        shape: typing.Literal["one", "list", "dict"] = "one"
        if typing.get_origin(inner) is list:
            shape, inner = "list", typing.get_args(inner)[0]
        elif typing.get_origin(inner) is dict:
            shape, inner = "dict", typing.get_args(inner)[1]
        elif isinstance(inner, types.UnionType):
            inner = next(part for part in typing.get_args(inner) if part is not type(None))
        found[number] = _Field(number, name, inner, shape)
    return found


# Out


def encode(message: Message) -> bytes:
    out = bytearray()
    for field in _fields(type(message)).values():
        value = getattr(message, field.name)
        if field.shape == "list":
            for item in value:
                _put(out, field.number, item)
        elif field.shape == "dict":
            for key, item in value.items():
                pair = bytearray()
                _put(pair, 1, key)
                _put(pair, 2, item)
                _put(out, field.number, bytes(pair))
        elif value or isinstance(value, Message):
            _put(out, field.number, value)
    return bytes(out)


def _put(out: bytearray, number: int, value: Scalar) -> None:
    if isinstance(value, int):
        _varint(out, number << 3 | _VARINT)
        _varint(out, int(value) & 0xFFFFFFFFFFFFFFFF)
        return
    data = encode(value) if isinstance(value, Message) else value.encode("utf-8", "replace") if isinstance(value, str) else value
    _varint(out, number << 3 | _BYTES)
    _varint(out, len(data))
    out += data


def _varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# In


def decode(kind: type[M], data: bytes) -> M:
    fields = _fields(kind)
    values: dict[str, object] = {}
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _number(data, at - 1)
        field = fields.get(tag >> 3)
        wire = tag & 7
        raw: int | bytes
        if wire == _VARINT:
            raw, at = _number(data, at)
        else:
            size, at = _size(data, at, wire)
            if size > end - at:
                raise WireError("a message is cut off")
            raw = data[at : at + size]
            at += size
        if field is None:
            if not tag >> 3:
                raise WireError("a message has a field without a number")
        elif field.shape == "one":
            values[field.name] = _value(field, wire, raw)
        else:
            _add(field, wire, raw, values)
    return kind(**values)


def _add(field: _Field, wire: int, raw: int | bytes, values: dict[str, object]) -> None:
    """One more item of a list or dict."""
    if field.shape == "list":
        items = typing.cast("list[Scalar]", values.setdefault(field.name, []))
        if field.type in (int, bool) and not isinstance(raw, int):
            items += _packed(raw)
        else:
            items.append(_value(field, wire, raw))
        _check(len(items))
        return
    pairs = typing.cast("dict[str, Scalar]", values.setdefault(field.name, {}))
    if isinstance(raw, int) or wire != _BYTES:
        raise _wrong(field)
    entry = decode(_entry(field.type), raw)
    pairs[entry.key] = field.type() if entry.value is None else entry.value
    _check(len(pairs))


class _Entry(Message):
    """A pair of a dict; `value` is of the dict's type."""

    key: str = ""
    value: Scalar | None = None


@functools.cache
def _entry(kind: type) -> type[_Entry]:
    made = type("_EntryOf" + kind.__name__, (_Entry,), {})
    _declared[made] = {1: _Field(1, "key", str, "one"), 2: _Field(2, "value", kind, "one")}
    return typing.cast("type[_Entry]", made)


_declared: dict[type, dict[int, _Field]] = {}


def _check(count: int) -> None:
    if count > _MOST:
        raise WireError(f"a message has more than {_MOST} items in one field")


def _size(data: bytes, at: int, wire: int) -> tuple[int, int]:
    if wire == _BYTES:
        return _number(data, at)
    if wire in (_FIXED64, _FIXED32):
        return (8 if wire == _FIXED64 else 4), at
    raise WireError("a message has a field of unknown form")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    end = len(data)
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise WireError("a message is cut off")


def _value(field: _Field, wire: int, raw: int | bytes) -> Scalar:
    kind = field.type
    if isinstance(raw, int):
        if kind is int:
            return raw - (1 << 64) if raw >> 63 else raw
        if kind is bool:
            return bool(raw)
    elif wire == _BYTES:
        if kind is bytes:
            return raw
        if kind is str:
            try:
                return raw.decode("utf-8")
            except UnicodeDecodeError:
                raise WireError("a text in a message is not UTF-8") from None
        if issubclass(kind, Message):
            return decode(kind, raw)
    raise _wrong(field)


def _wrong(field: _Field) -> WireError:
    return WireError(f"the field {field.name} of a message has the wrong type")


def _packed(raw: bytes) -> list[Scalar]:
    found: list[Scalar] = []
    at = 0
    while at < len(raw):
        value, at = _number(raw, at)
        found.append(value - (1 << 64) if value >> 63 else value)
        _check(len(found))
    return found
