"""Times as docker's clients read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from lamina.server.errors import BadRequest

NEVER = "0001-01-01T00:00:00Z"
_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def rfc3339(seconds: float | None) -> str:
    """With microseconds; NEVER for None."""
    return NEVER if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def nano(seconds_nano: int) -> str:
    """RFC 3339 with nine digits, as `logs -t` prints."""
    whole, rest = divmod(seconds_nano, 10**9)
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:09d}Z"


def parse(text: str, now: float) -> float | None:
    """Seconds since the epoch of `since=`/`until=`: a number, RFC 3339, or a Go duration before now. None for "" and "0"."""
    if text in ("", "0"):
        return None
    try:
        return float(text)
    except ValueError:
        pass
    if re.fullmatch(r"(\d+(\.\d+)?(h|m|s|ms|us|µs|ns))+", text):
        return now - sum(float(number) * _UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|us|µs|ns|h|m|s)", text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{text!r} is not a time") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
