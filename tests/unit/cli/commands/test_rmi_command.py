"""`lamina rmi`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_the_last_name_takes_the_image(lamina: Lamina, built: Path) -> None:
    lamina("tag", "app:1", "app:2")
    first = lamina("rmi", "app:1")
    assert first.out == "Untagged: app:1\n"
    second = lamina("rmi", "app:2")
    assert second.out.splitlines()[0] == "Untagged: app:2"
    assert second.out.splitlines()[1].startswith("Deleted: sha256:")
    assert lamina("images", "-a", "-q").out == ""
    assert lamina("plan", "-q", ".").code == 0, "the cache stays"


def test_an_id_with_several_names_wants_force(lamina: Lamina, built: Path) -> None:
    lamina("tag", "app:1", "app:2")
    identifier = lamina("images", "-q").out.strip()
    refused = lamina("rmi", identifier)
    assert refused.code not in (0, 70)
    assert lamina("rmi", "-f", identifier).code == 0
    assert lamina("images", "-a", "-q").out == ""


def test_a_mistake(lamina: Lamina, built: Path) -> None:
    assert "none:1" in lamina("rmi", "none:1").err
