from __future__ import annotations

import pytest

from lamina.dockerfile.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 15 * 10**8),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("300ms", 3 * 10**8),
        ("-1m", -60 * 10**9),
        ("+2us", 2000),
        ("2µs", 2000),
        ("1ns", 1),
    ],
)
def test_values(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", ".s", "5x", "5 s", "-", "1s2", "9999999999999h"])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
