"""`lamina completion` and `lamina version`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lamina.version import __version__

Lamina = Callable[..., Any]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(lamina: Lamina, shell: str) -> None:
    said = lamina("completion", shell)
    assert said.code == 0
    assert "_LAMINA_COMPLETE" in said.out


def test_another_shell(lamina: Lamina) -> None:
    said = lamina("completion", "cmd")
    assert said.code == 2
    assert "bash" in said.err


def test_version(lamina: Lamina) -> None:
    assert json.loads(lamina("version", "--json").out) == {"version": __version__}
    assert lamina("version").out == f"lamina {__version__}\n"
