"""Numbers in words, as the command line prints them."""

from __future__ import annotations


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def seconds(value: float) -> str:
    if value < 60:
        return f"{value:.2f} s" if value < 0.095 else f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} m {int(value % 60):02d} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} m"


def age(value: float) -> str:
    for limit, length, unit in ((60, 1, "second"), (3600, 60, "minute"), (86400, 3600, "hour"), (float("inf"), 86400, "day")):
        if value < limit:
            number = max(0, int(value // length))
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    raise AssertionError


def shorten(value: str, width: int) -> str:
    return value if len(value) <= width else value[: width - 1] + "…"


def familiar(name: str) -> str:
    """An image's name as people write it."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")
