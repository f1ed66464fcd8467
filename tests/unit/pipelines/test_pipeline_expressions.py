from __future__ import annotations

import pytest

from lamina.pipelines.expressions import ExpressionError, compile_expression, evaluate, names

VALUES = {"BRANCH": "feature/x", "EMPTY": "", "FLAG": "true", "COUNT": "10", "TEXT": 'a"b'}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('BRANCH == "feature/x"', True),
        ("BRANCH == 'feature/y'", False),
        ("BRANCH == feature/x", True),
        ("BRANCH != main", True),
        ("FLAG == true", True),
        ("FLAG", True),
        ("!FLAG", False),
        ("COUNT > 9", True),
        ("COUNT == 10.0", True),
        ('COUNT < "9"', False),
        ('UNSET == ""', True),
        ('glob(BRANCH, "feature/*")', True),
        ('glob(BRANCH, "*")', False),
        ('!glob(BRANCH, "main") && (COUNT >= 10 || false)', True),
        ("true || nonsense", True),
        ("false && nonsense", False),
        ('TEXT == "a\\"b"', True),
        ("true || false && false", True),
        ("!(true && true)", False),
    ],
)
def test_values(text: str, expected: bool) -> None:
    assert evaluate(text, VALUES) is expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("BRANCH", "compare it"),
        ("COUNT", "compare it"),
        ("BRANCH < 5", None),
        ("$BRANCH == x", "without $"),
        ("BRANCH = x", "equality is =="),
        ("A & B", "and is &&"),
        ('A == "x', "not closed"),
        ("A == ", None),
        ("(A == b", None),
        ("A == b c", None),
        ("lower(A) == b", "glob"),
        ("glob(A, b)", None),
        ("glob(A)", None),
        ('glob(A, "[z-a]")', None),
        ("", None),
        ("!" * 200 + "true", None),
        ("(" * 200 + "true" + ")" * 200, None),
        ("feature/x == A", "in quotes"),
    ],
)
def test_refusals(text: str, hint: str | None) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, VALUES)
    assert hint is None or hint in (caught.value.hint or "")


def test_what_is_wrong_is_found_without_values() -> None:
    with pytest.raises(ExpressionError):
        compile_expression("A ==")


def test_names_are_the_words_that_may_be_variables() -> None:
    assert names('A == "B" && !glob(C, "D") || true && A == x/y') == ("A", "C")
