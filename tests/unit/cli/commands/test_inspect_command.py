"""`lamina inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_inspect(lamina: Lamina, built: Path) -> None:
    (document,) = json.loads(lamina("inspect", "app:1").out)
    assert document["RepoTags"] == ["app:1"]
    assert document["Config"]["WorkingDir"] == "/work"
    assert lamina("inspect", "-f", "{{.Config.WorkingDir}}", "app:1").out == "/work\n"
    assert json.loads(lamina("inspect", document["Id"][:20]).out) == [document]


def test_mistakes(lamina: Lamina, built: Path) -> None:
    assert "none:1" in lamina("inspect", "none:1").err
    assert lamina("inspect").code == 2
    assert "{{.Wokr}}"[3:-2] in lamina("inspect", "-f", "{{.Wokr}}", "app:1").err
