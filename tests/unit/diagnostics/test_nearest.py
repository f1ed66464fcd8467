from __future__ import annotations

import pytest

from lamina.diagnostics.errors import nearest


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("scirpt", ("script", "step"), "script"),
        ("postgress", ("postgres", "redis"), "postgres"),
        ("x", ("script",), None),
        ("node", (), None),
        ("nod", ("node", "nodes"), "node"),
        ("a" * 300, ("a" * 300,), None),
        ("abc", ("a" * 100_000, "abd"), "abd"),
    ],
)
def test_nearest(word: str, candidates: tuple[str, ...], expected: str | None) -> None:
    assert nearest(word, candidates) == expected
