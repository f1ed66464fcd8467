"""Small words of reasons: shortened values, ages, and what must not be shown."""

from __future__ import annotations

import re

from lamina.cache.sensitive import sensitive

_USER_INFO = r"://[^/@\s]*@"
_LONG = 60
SAME = "same inputs"  # the reason of a plain hit


def shown(name: str, value: str) -> str | None:
    """A variable's value fit for a log, or None: its name or its look says that it may be secret, or it is no short line."""
    if sensitive(name, value) or len(value) > _LONG or not value.isprintable():
        return None
    return value if value else '""'


def shorten(text: str, limit: int = _LONG) -> str:
    """One line of at most `limit` characters, the end left out; user names and passwords of URLs left out too."""
    line = " ".join(text.split())
    if "://" in line:
        line = re.sub(_USER_INFO, "://…@", line)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def around(old: str, new: str, limit: int = 46) -> tuple[str, str]:
    """Both texts shortened to the place where they differ."""
    old, new = " ".join(old.split()), " ".join(new.split())
    if max(len(old), len(new)) <= limit:
        return shorten(old, limit), shorten(new, limit)
    same = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    start = max(0, same - limit // 3)
    mark = "…" if start else ""
    return shorten(mark + old[start:], limit), shorten(mark + new[start:], limit)


def digest_short(digest: str) -> str:
    """`sha256:ab12cd34…`."""
    algorithm, colon, text = digest.partition(":")
    return f"{algorithm}{colon}{text[:8]}…" if len(text) > 12 else digest


def age(seconds: float) -> str:
    """`just now`, `3 min`, `5 h`, `4 days`."""
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // size))} {unit}"
    return f"{int(seconds // 86400)} days"


def made(since: float, where: str, build: str) -> str:
    """`made 3 min ago on this machine, build 20260101-…`."""
    return f"made {age(since)} ago {where}, build {build}"


def more(count: int) -> str:
    """` (and 2 more)`, nothing for none."""
    return f" (and {count} more)" if count else ""
