"""`lamina doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lamina.sandbox import survey
from lamina.sandbox.rungs import Finding

Lamina = Callable[..., Any]


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = (Finding("root", False, "this is not root", "become it"), Finding("userns", True, "a range"), Finding("none", True, "always"))
    monkeypatch.setattr(survey, "survey", lambda root: rungs)


def test_what_works_and_what_would_help(lamina: Lamina) -> None:
    said = lamina("--sandbox", "", "doctor").out
    assert "no     root           this is not root" in said
    assert "become it" in said
    assert "works  userns" in said
    assert said.endswith("RUN steps use: userns\n")
    assert "(not made yet)" in said


def test_json(lamina: Lamina) -> None:
    document = json.loads(lamina("--sandbox", "", "doctor", "--json").out)
    assert [rung["works"] for rung in document["rungs"]] == [False, True, True]
    assert document["chosen"] == "userns"
    assert document["kernel"]


@pytest.mark.parametrize(
    ("rung", "words"), [("nope", "there is no such rung; known: root, userns, none"), ("root", "does not work here: this is not root")]
)
def test_a_rung_that_is_asked_for_and_not_there_is_an_error(lamina: Lamina, rung: str, words: str) -> None:
    said = lamina("--sandbox", rung, "doctor")
    assert (said.code, words in said.err) == (69, True)
    assert "RUN steps use" not in said.out
    assert json.loads(lamina("--sandbox", rung, "doctor", "--json").out)["chosen"] is None
    assert lamina("--sandbox", "userns", "doctor").out.endswith("RUN steps use: userns (as asked for)\n")


def test_a_mistake(lamina: Lamina) -> None:
    assert lamina("doctor", "please").code == 2
