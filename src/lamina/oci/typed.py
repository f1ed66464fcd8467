"""msgspec's reading of JSON, msgpack and rows as a type, safe for threads.

msgspec makes what it knows about a Struct at the first use of it, and other threads see it half made: a process that reads for the first
time in two threads at once can die of SIGSEGV (msgspec 0.18 to 0.22, tests/unit/oci/test_typed.py). Here the first use is under a lock.
"""

from __future__ import annotations

import re
import threading
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
_lock = threading.Lock()
_ready: set[Any] = set()
_SURROGATE = "[\ud800-\udfff]"


def ready(type: type[_T]) -> None:
    """From now on msgspec may be asked for `type` in any thread."""
    if type not in _ready:
        with _lock:
            msgspec.json.Decoder(type)
            _ready.add(type)


def json(raw: bytes | bytearray | memoryview | str, *, type: type[_T]) -> _T:
    """As msgspec.json.decode."""
    ready(type)
    return msgspec.json.decode(raw, type=type)


def msgpack(raw: bytes | bytearray | memoryview, *, type: type[_T]) -> _T:
    """As msgspec.msgpack.decode."""
    ready(type)
    return msgspec.msgpack.decode(raw, type=type)


def convert(value: object, type: type[_T], *, strict: bool = True) -> _T:
    """As msgspec.convert."""
    ready(type)
    return msgspec.convert(value, type, strict=strict)


def encode_json(document: object) -> bytes:
    """As msgspec.json.encode, also of texts that are no Unicode: words of a Dockerfile, of argv, of names that are no UTF-8."""
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        return msgspec.json.encode(encodable(msgspec.to_builtins(document)))


def encodable(value: object) -> object:
    """`value` (of JSON's types) with U+FFFD for what UTF-8 cannot say: bytes that were no UTF-8, halves of surrogate pairs. As Go's JSON, both ways."""
    if isinstance(value, str):
        return value if value.isascii() else re.sub(_SURROGATE, "\ufffd", value)
    if isinstance(value, dict):
        return {encodable(name): encodable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    return value
