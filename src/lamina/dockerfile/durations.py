"""Durations as Go writes them: "1h30m", "1.5s", "300ms"."""

from __future__ import annotations

import re

_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = r"([0-9]*)(?:(\.)([0-9]*))?(ns|us|µs|μs|ms|s|m|h)"
_MAX = 2**63 - 1


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises ValueError with a message in words (https://pkg.go.dev/time#ParseDuration)."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total = pos = 0
    one = re.compile(_PART)
    while pos < len(body):
        part = one.match(body, pos)
        if part is None or not (part[1] or part[3]):
            number = re.match(r"[0-9]*\.?[0-9]*", body[pos:])
            if number and number[0].strip("."):
                raise ValueError(
                    f'duration "{text}" lacks a unit' if number.end() + pos == len(body) else f'unknown unit in duration "{text}"'
                )
            break
        unit = _UNITS[part[4]]
        fraction = part[3] or ""
        total += int(part[1] or 0) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        if total > _MAX:
            break
        pos = part.end()
    if not body or pos < len(body):
        raise ValueError(f'invalid duration "{text}"')
    return -total if text[0] == "-" else total
