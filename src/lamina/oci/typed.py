"""msgspec's reading of JSON, msgpack and rows as a type, safe for threads.

msgspec makes what it knows about a Struct at the first use of it, and other threads see it half made: a process that reads for the first
time in two threads at once can die of SIGSEGV (msgspec 0.18 to 0.22, tests/unit/oci/test_typed.py). Here the first use is under a lock.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
_lock = threading.Lock()
_ready: set[Any] = set()


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
