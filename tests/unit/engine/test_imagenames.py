from __future__ import annotations

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import parse
from lamina.engine.imagenames import point

TEXT = "FROM alpine:3 AS builder\nRUN true\nFROM scratch\nCOPY --from=bulider /a /a\nCOPY --from=docker.io/library/other /b /b\n"


@pytest.mark.parametrize(
    ("reference", "line", "message", "hint"),
    [
        ("docker.io/library/alpine:3", 1, "alpine:3: gone", None),
        ("docker.io/library/bulider:latest", 4, "bulider: gone", "did you mean the stage 'builder'?"),
        ("docker.io/library/other:latest", 5, "docker.io/library/other: gone", None),
        ("docker.io/library/nowhere:latest", 1, "gone", None),
    ],
)
def test_an_error_points_at_who_names_the_image(reference: str, line: int, message: str, hint: str | None) -> None:
    error = LaminaError("gone")
    point(error, parse(TEXT, "Dockerfile"), reference)
    assert [span.line for span in error.spans] == [line]
    assert (error.message, error.hint) == (message, hint)


def test_what_the_error_says_itself_stays() -> None:
    document = parse(TEXT, "Dockerfile")
    own = document.stages[1].from_.span
    error = LaminaError("alpine:3 is gone", spans=(own,))
    point(error, document, "docker.io/library/alpine:3")
    assert error.spans == (own,)
    assert error.message == "alpine:3 is gone"
