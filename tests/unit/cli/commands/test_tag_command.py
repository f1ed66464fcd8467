"""`lamina tag`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_a_further_name(lamina: Lamina, built: Path) -> None:
    assert lamina("tag", "app:1", "registry.example/team/app").code == 0
    assert lamina("images", "--format", "{{.Repository}}:{{.Tag}}").out.splitlines() == ["app:1", "registry.example/team/app:latest"]
    assert len(lamina("images", "-q").out.splitlines()) == 1


def test_mistakes(lamina: Lamina, built: Path) -> None:
    assert "none" in lamina("tag", "none", "x").err
    said = lamina("tag", "app:1", "Not A Name")
    assert said.code not in (0, 70)
