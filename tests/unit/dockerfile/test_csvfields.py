"""Comma separated values, as options have them."""

from __future__ import annotations

import pytest

from lamina.dockerfile.csvfields import csv_fields


def test_quotes_and_empty_fields() -> None:
    assert csv_fields('a,"b,""c""",') == ["a", 'b,"c"', ""]
    for bad in ('"a', 'a"b', '"a"b'):
        with pytest.raises(ValueError, match="quote"):
            csv_fields(bad)


def test_letters_of_all_kinds() -> None:
    """Python's csv ended a build of a client with its own error for a carriage return (found by fuzzing), and for fields above 128 KiB."""
    assert csv_fields("a\rb,c\nd") == ["a\rb", "c\nd"]
    assert csv_fields("x" * 200_000) == ["x" * 200_000]
