"""Patterns of COPY and ADD: Go's filepath.Match for sources, and the `**` dialect of moby's patternmatcher for --parents."""

from __future__ import annotations

import re
from functools import lru_cache

from lamina.diagnostics.errors import LaminaError


class BadPattern(LaminaError):
    """A pattern that Go's filepath.Match refuses (an unclosed class, a trailing backslash)."""

    code = "copy/bad-pattern"
    default_exit = 65


def has_wildcard(pattern: bytes) -> bool:
    """Whether an unescaped '*', '?' or '[' is in it (fsutil's containsWildcards)."""
    position = 0
    while position < len(pattern):
        char = pattern[position : position + 1]
        if char == b"\\":
            position += 1
        elif char in (b"*", b"?", b"["):
            return True
        position += 1
    return False


@lru_cache(maxsize=256)
def name_pattern(pattern: bytes) -> re.Pattern[bytes]:
    """For one path component: matches a whole name."""
    return re.compile(_translate(pattern, False), re.DOTALL)


@lru_cache(maxsize=256)
def path_pattern(pattern: bytes) -> re.Pattern[bytes]:
    """For a whole relative path; '**' spans folders."""
    return re.compile(_translate(pattern.strip(b"/"), True), re.DOTALL)


def _translate(pattern: bytes, spanning: bool) -> bytes:
    out = [b"\\A"]
    position = 0
    while position < len(pattern):
        char = pattern[position : position + 1]
        position += 1
        if char == b"*":
            if spanning and pattern[position : position + 1] == b"*":
                position += 1
                if pattern[position : position + 1] == b"/":
                    position += 1
                    out.append(b"(?:.*/)?")
                else:
                    out.append(b".*")
            else:
                out.append(b"[^/]*")
        elif char == b"?":
            out.append(b"[^/]")
        elif char == b"[":
            text, position = _class(pattern, position)
            out.append(text)
        elif char == b"\\":
            if position == len(pattern):
                raise _bad(pattern)
            out.append(re.escape(pattern[position : position + 1]))
            position += 1
        else:
            out.append(re.escape(char))
    return b"".join(out) + b"\\Z"


def _class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """A character class from behind its '['; Go has ranges, '^' and '\\', and no empty class."""
    negated = pattern[position : position + 1] == b"^"
    position += negated
    parts: list[bytes] = []
    while True:
        if pattern[position : position + 1] == b"]" and parts:
            break
        low, position = _class_char(pattern, position)
        high = low
        if pattern[position : position + 1] == b"-":
            high, position = _class_char(pattern, position + 1)
        # An inverted range is legal in Go and matches nothing.
        parts.append(re.escape(low) + b"-" + re.escape(high) if low <= high else b"")
    inside = b"".join(parts)
    if not inside:
        return (b"[^/]" if negated else b"(?!)"), position + 1
    return b"[" + (b"^/" if negated else b"") + inside + b"]", position + 1


def _class_char(pattern: bytes, position: int) -> tuple[bytes, int]:
    char = pattern[position : position + 1]
    if char == b"\\":
        position += 1
        char = pattern[position : position + 1]
    elif char in (b"-", b"]"):
        raise _bad(pattern)
    if not char or position + 1 >= len(pattern):
        raise _bad(pattern)
    return char, position + 1


def _bad(pattern: bytes) -> BadPattern:
    return BadPattern(
        f"bad pattern {pattern.decode('utf-8', 'backslashreplace')!r}", hint="a '[' needs its ']', a '\\' a character after it"
    )
