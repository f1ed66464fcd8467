"""Replaces the values of secured variables in a stream of output bytes, however the stream is cut into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable

LEAST = 3  # bytes; a shorter value would mask half of every log and hide nothing


class Masker:
    """`feed` pieces, then `close`. A piece that may be the beginning of a value is held back until the next one decides.

    A value becomes `$NAME`; of values that begin at one place the longest wins. A value of several lines is also masked line by line, since programs
    print it so. At most the longest value minus one byte is held back.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]]) -> None:
        named: dict[bytes, bytes] = {}
        for name, value in secrets:
            for part in (value, *value.splitlines()):
                data = part.strip("\r\n").encode(errors="surrogateescape")
                if len(data.strip()) >= LEAST:
                    named.setdefault(data, b"$" + name.encode(errors="surrogateescape"))
        self._named = named
        ordered = sorted(named, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(re.escape(value) for value in ordered)) if ordered else None
        self._starts = tuple(ordered)
        self._firsts = frozenset(value[0] for value in ordered)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown now."""
        if self._pattern is None:
            return data
        text = self._held + data
        keep = self._undecided(text)
        shown, begun = [], 0
        for match in self._pattern.finditer(text):
            if match.start() >= keep:
                break
            shown += [text[begun : match.start()], self._named[match[0]]]
            begun = match.end()
        keep = max(keep, begun)
        shown.append(text[begun:keep])
        self._held = text[keep:]
        return b"".join(shown)

    def close(self) -> bytes:
        """The rest. The masker can be used again afterwards."""
        text, self._held = self._held, b""
        return self._pattern.sub(lambda match: self._named[match[0]], text) if self._pattern is not None else text

    def mask(self, text: str) -> str:
        """A whole text, such as an error's message; independent of what is fed."""
        if self._pattern is None:
            return text
        data = text.encode(errors="surrogateescape")
        return self._pattern.sub(lambda match: self._named[match[0]], data).decode(errors="surrogateescape")

    def _undecided(self, text: bytes) -> int:
        """The first place from which the text may be the beginning of a value that is not complete yet."""
        longest = len(self._starts[0])
        for place in range(max(0, len(text) - longest + 1), len(text)):
            if text[place] not in self._firsts:
                continue
            tail = text[place:]
            if any(len(value) > len(tail) and value.startswith(tail) for value in self._starts):
                return place
        return len(text)
