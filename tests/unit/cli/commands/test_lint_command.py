"""`lamina lint`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_nothing_to_complain_of(lamina: Lamina, app: Path, tmp_path: Path) -> None:
    said = lamina("lint")
    assert said.code == 0
    assert "nothing to complain of" in said.err
    assert not (tmp_path / "store").exists(), "it needs no store"


def test_a_warning_is_no_failure_and_an_error_is_one(lamina: Lamina, app: Path) -> None:
    (app / "other").write_text("from scratch as a\nCOPY a /a\n")
    warned = lamina("lint", "-f", "other", ".")
    assert warned.code == 0
    assert "finding" in warned.err
    (app / "other").write_text("FROM scratch\nCPOY a /a\n")
    wrong = lamina("lint", "-f", "other", "--json", ".")
    assert wrong.code == 1
    assert json.loads(wrong.out)[0]["severity"] == "error"


def test_from_standard_input(lamina: Lamina, app: Path) -> None:
    assert lamina("lint", "-f", "-", stdin=b"FROM scratch\nCPOY a /a\n").code == 1


def test_a_mistake(lamina: Lamina, app: Path) -> None:
    assert "none" in lamina("lint", "none").err
