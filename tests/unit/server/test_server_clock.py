from __future__ import annotations

import pytest

from lamina.server import clock
from lamina.server.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("0", None),
        ("12.5", 12.5),
        ("1h30m", 1000 - 5400),
        ("10s", 990),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T00:01:00", 60),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    assert clock.parse(text, 1000) == seconds


def test_what_is_no_time_is_refused() -> None:
    with pytest.raises(BadRequest):
        clock.parse("yesterday", 0)


def test_never_and_nanoseconds() -> None:
    assert clock.rfc3339(None) == "0001-01-01T00:00:00Z"
    assert clock.nano(1_000_000_007) == "1970-01-01T00:00:01.000000007Z"
