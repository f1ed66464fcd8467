"""`lamina plan`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_before_after_and_one_file_changed(lamina: Lamina, app: Path) -> None:
    assert lamina("plan", "-q", ".").code == 3
    assert lamina("build", "-q", ".").code == 0
    same = lamina("plan", ".")
    assert same.code == 0
    assert "all cached: a build would run nothing" in same.out
    (app / "b").write_text("changed\n")
    said = lamina("plan", ".")
    assert said.code == 3
    assert "HIT     parts:1  COPY a /a  (line 2)" in said.out
    assert "MISS    parts:2  COPY b /b  (line 4)\n        └ b changed in build context" in said.out
    assert "to do, about" in said.out
    assert "LABEL" not in said.out


def test_what_is_shown_is_a_selector(lamina: Lamina, app: Path) -> None:
    lamina("build", "-q", ".")
    document = json.loads(lamina("plan", "--refresh", "parts:2", "--json", ".").out)
    forced = [step["text"] for step in document["steps"] if step["reason"]["code"] == "forced"]
    assert forced == ["COPY b /b"]


def test_a_mistake(lamina: Lamina, app: Path) -> None:
    (app / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    said = lamina("plan", ".")
    assert said.code not in (0, 3, 70)
    assert "nothing" in said.err
