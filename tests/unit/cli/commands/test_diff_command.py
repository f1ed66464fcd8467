"""`lamina diff`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_two_builds(lamina: Lamina, built: Path) -> None:
    assert lamina("build", "-q", "-t", "app:1", ".").code == 0
    same = lamina("diff", "previous", "last")
    assert (same.code, same.out) == (0, "no step differs\n")
    (built / "a").write_text("changed\n")
    assert lamina("build", "-q", "-t", "app:2", ".").code == 0
    said = lamina("diff", "previous", "last")
    assert said.code == 1
    assert "~ parts:1  COPY a /a  (line 2)\n    └ a changed in build context" in said.out
    document = json.loads(lamina("diff", "--json", "app:1", "app:2").out)
    assert [change["after"]["text"] for change in document] == ["COPY a /a", "COPY b /b", "COPY --from=parts /a /copied", "WORKDIR /work"]


def test_a_mistake(lamina: Lamina, built: Path) -> None:
    assert lamina("diff", "last").code == 2
    assert lamina("diff", "last", "previous").code == 66
