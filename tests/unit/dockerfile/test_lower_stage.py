"""Names of steps, as BuildKit shows them."""

from __future__ import annotations

import pytest

from lamina.dockerfile.lower.stage import step_name
from lamina.graph.vertex import Step


@pytest.mark.parametrize(
    ("name", "stages", "expected"),
    [
        ("", 1, "[2/4] RUN make"),
        ("build", 1, "[build 2/4] RUN make"),
        ("", 3, "[stage-1 2/4] RUN make"),
        ("build", 3, "[build 2/4] RUN make"),
    ],
)
def test_step_name(name: str, stages: int, expected: str) -> None:
    assert step_name(Step(1, name, 2, 4, 7, "RUN make"), stages) == expected


def test_a_trigger_says_that_it_is_one() -> None:
    assert step_name(Step(0, "", 2, 4, 7, "RUN a \n  && b", trigger=True), 1) == "[2/4] ONBUILD RUN a && b"
