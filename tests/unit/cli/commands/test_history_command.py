"""`lamina history`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_history(lamina: Lamina, built: Path) -> None:
    said = lamina("history", "app:1").out.splitlines()
    assert said[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert "WORKDIR /work" in said[1]
    assert said[2].startswith("<missing>")
    assert "COPY /a /copied" in lamina("history", "--no-trunc", "app:1").out
    assert json.loads(lamina("history", "--json", "app:1").out)[0]["CreatedBy"].startswith("WORKDIR")
    assert lamina("history", "--format", "{{.Size}}", "app:1").out.splitlines()[1] == "4B"
    assert len(lamina("history", "-q", "app:1").out.splitlines()) == 2


def test_a_mistake(lamina: Lamina, built: Path) -> None:
    said = lamina("history", "app:2")
    assert said.code != 0
    assert "app:2" in said.err
