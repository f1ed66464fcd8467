from __future__ import annotations

import pytest

from lamina.diagnostics.span import Source, Span
from lamina.pipelines.changes import decide
from lamina.pipelines.expressions import ExpressionError
from lamina.pipelines.model import Condition, Text

HERE = Span(Source("f", ""), 1)


def texts(*values: str) -> tuple[Text, ...]:
    return tuple(Text(value, HERE) for value in values)


@pytest.mark.parametrize(
    ("include", "exclude", "changed", "verdict"),
    [
        (("src/**",), (), ("README.md", "src/a/b.py"), "run"),
        (("src/*",), (), ("src/a/b.py",), "skip"),
        (("a", "b"), (), ("b",), "run"),
        (("a",), (), (), "skip"),
        (("a",), (), None, "run"),
        ((), ("docs/**",), ("docs/a", "docs/b"), "skip"),
        ((), ("docs/**",), ("docs/a", "x"), "run"),
        ((), ("docs/**",), (), "run"),
        ((), (), ("x",), "run"),
    ],
)
def test_changed_files(include: tuple[str, ...], exclude: tuple[str, ...], changed: tuple[str, ...] | None, verdict: str) -> None:
    assert decide(Condition(HERE, texts(*include), texts(*exclude)), changed, {}).verdict == verdict


def test_no_condition_runs() -> None:
    assert decide(None, None, {}).verdict == "run"


def test_an_expression_on_what_a_step_may_still_set_waits() -> None:
    condition = Condition(HERE, state=Text('V == "1"', HERE))
    assert decide(condition, (), {}, frozenset(["V"])).verdict == "later"
    assert decide(condition, (), {"V": "1"}).verdict == "run"
    assert decide(condition, (), {}).verdict == "skip"


def test_both_must_hold() -> None:
    condition = Condition(HERE, include=texts("a"), state=Text("true", HERE))
    assert decide(condition, ("b",), {}).verdict == "skip"
    assert "includePaths" in decide(condition, ("b",), {}).reason


def test_without_a_variable_an_expression_that_gives_no_boolean_is_decided_later() -> None:
    for text in ("FLAG", "COUNT > 5", "!FLAG"):
        found = decide(Condition(HERE, state=Text(text, HERE)), (), {})
        assert found.verdict == "later"
        assert "needs" in found.reason
    with pytest.raises(ExpressionError):
        decide(Condition(HERE, state=Text("FLAG", HERE)), (), {"FLAG": "maybe"})
