"""Numbers, sizes and ages in words, and plain tables: how every command prints them."""

from __future__ import annotations

from collections.abc import Sequence


def size(count: int) -> str:
    """Bytes in decimal units, as docker prints them: 12B, 3.4kB, 56.7MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.3g}{unit}" if unit != "B" else f"{count}B"
        value /= 1000
    raise AssertionError


def seconds(value: float) -> str:
    """0.04 s, 3.1 s, 2 m 05 s, 1 h 10 m."""
    if value < 0.095:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} m {int(value % 60):02d} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} m"


def age(value: float) -> str:
    """How long ago: just now, 5 minutes ago, 3 days ago."""
    for limit, unit in (
        (60, "second"),
        (3600, "minute"),
        (86400, "hour"),
        (86400 * 14, "day"),
        (86400 * 60, "week"),
        (86400 * 730, "month"),
    ):
        if value < limit:
            divisor = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 86400 * 7, "month": 86400 * 30}[unit]
            number = int(value // divisor)
            if unit == "second" and number < 5:
                return "just now"
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return f"{int(value // (86400 * 365))} years ago"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, three spaces apart, no trailing blanks."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def step_head(word: str, name: str, took: str) -> str:
    """First line of a finished step: `CACHED [build 2/7] RUN make  saved 41 s`."""
    return f"{word:6} {name}" + (f"  {took}" if took else "")


def saved(value: float) -> str:
    """`saved 41 s`, nothing where it is not worth a word."""
    return f"saved {seconds(value)}" if value >= 0.1 else ""


REASON = "       └ "  # before a step's reason, on a line of its own


def summary(hits: int, gained: float, ran: int, skipped: int, took: float) -> str:
    """`9 cached (saved 41 s), 2 ran, 3.2 s in all`."""
    text = f"{hits} cached" + (f" (saved {seconds(gained)})" if gained >= 0.1 else "") + f", {ran} ran"
    if skipped:
        text += f", {skipped} not needed"
    return f"{text}, {seconds(took)} in all"


def short_id(digest: str) -> str:
    """Twelve characters of a digest's hex, as docker shows image ids."""
    return digest.partition(":")[2][:12]
