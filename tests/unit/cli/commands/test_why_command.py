"""`lamina why`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_every_step_of_the_last_build_of_an_image(lamina: Lamina, built: Path) -> None:
    said = lamina("why", "app:1")
    assert said.code == 0
    assert said.out.count("[first-build]") == 4
    assert "parts:2  COPY b /b  (line 4)" in said.out
    assert "LABEL" not in said.out


def test_one_step_by_each_selector(lamina: Lamina, built: Path) -> None:
    for selector in ("parts:2", "0:2", "COPY b", "line 4"):
        said = lamina("why", "app:1", selector)
        assert said.code == 0, said.err
        assert said.out.count("└") == 1, said.out
        assert "COPY b /b" in said.out
    assert "COPY b /b" in lamina("why", "COPY b").out, "a step alone is one of the last build"
    assert "LABEL x=y" in lamina("why", "app:1", "parts").out, "who asks for it sees what makes no step, too"


def test_json(lamina: Lamina, built: Path) -> None:
    document = json.loads(lamina("why", "app:1", "parts:2", "--json").out)
    assert [step["line"] for step in document["steps"]] == [4]
    assert document["error"] is None


def test_mistakes(lamina: Lamina, built: Path) -> None:
    assert "nothing:1" in lamina("why", "nothing:1").err
    said = lamina("why", "app:1", "prats")
    assert said.code == 2
    assert "did you mean 'parts'?" in said.err


def test_before_any_build(lamina: Lamina) -> None:
    said = lamina("why")
    assert said.code == 66
    assert "no earlier build" in said.err
