"""What a job prints: frames of one byte kind, four bytes length (big-endian) and the body. Pure."""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from lamina.diagnostics.errors import LaminaError

Kind = Literal["line", "begin", "file", "result"]
KINDS: dict[Kind, bytes] = {"line": b"L", "begin": b"B", "file": b"F", "result": b"R"}
LARGEST = 64 << 20  # bytes of a body
_HEAD = struct.Struct(">cI")
_NAMES: dict[bytes, Kind] = {letter: kind for kind, letter in KINDS.items()}


class BadFrame(LaminaError):
    """Something else than a job of lamina has printed."""

    code = "pipeline/bad-frame"


class Frame(msgspec.Struct, frozen=True):
    kind: Kind
    body: bytes


def frame(kind: Kind, body: bytes) -> bytes:
    return _HEAD.pack(KINDS[kind], len(body)) + body


class Frames:
    """Pieces of any length in, whole frames out. `last`: the body of the last frame of kind result, b"" before."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.last = b""

    def feed(self, data: bytes) -> list[Frame]:
        """BadFrame."""
        self._held += data
        found: list[Frame] = []
        at = 0
        while len(self._held) - at >= _HEAD.size:
            letter, length = _HEAD.unpack_from(self._held, at)
            if letter not in _NAMES or length > LARGEST:
                raise BadFrame("the job printed what is no message of lamina", hint="is the same lamina installed on the workers?")
            end = at + _HEAD.size + length
            if len(self._held) < end:
                break
            found.append(Frame(_NAMES[letter], bytes(self._held[at + _HEAD.size : end])))
            at = end
            if found[-1].kind == "result":
                self.last = found[-1].body
        del self._held[:at]
        return found
