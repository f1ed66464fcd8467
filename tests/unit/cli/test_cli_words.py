"""Sizes, seconds, ages and tables as they are printed."""

from __future__ import annotations

import pytest

from lamina.cli import words


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (1234, "1.23kB"), (56_700_000, "56.7MB"), (5 * 10**15, "5e+03TB")]
)
def test_size(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00 s"), (0.04, "0.04 s"), (0.095, "0.1 s"), (3.14, "3.1 s"), (59.9, "59.9 s"), (65, "1 m 05 s"), (4200, "1 h 10 m")],
)
def test_seconds(value: float, text: str) -> None:
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "just now"), (5, "5 seconds ago"), (60, "1 minute ago"), (7200, "2 hours ago"), (86400 * 3, "3 days ago"),
        (86400 * 20, "2 weeks ago"), (86400 * 90, "3 months ago"), (86400 * 800, "2 years ago"),
    ],
)  # fmt: skip
def test_age(value: float, text: str) -> None:
    assert words.age(value) == text


def test_table() -> None:
    assert words.table(("A", "LONG"), [("xyz", ""), ("1", "2")]) == "A     LONG\nxyz\n1     2"
    assert words.table(("A",), []) == "A"


def test_shorten_and_ids() -> None:
    assert words.shorten("abcdef", 4) == "abc…"
    assert words.shorten("abcd", 4) == "abcd"
    assert words.short_id("sha256:0123456789abcdef") == "0123456789ab"
