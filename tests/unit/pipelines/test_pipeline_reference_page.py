"""docs/reference/pipelines.md names every finding that lint can make."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
RUN_TIME = {"pipeline/start", "pipeline/glob", "pipeline/not-here", "pipeline/no-repository", "pipeline/fix"}
NOT_LOCAL = "notlocal.py"


def test_every_code_of_a_finding_is_described() -> None:
    used = {
        code
        for path in (ROOT / "src/lamina/pipelines").glob("*.py")
        if path.name != NOT_LOCAL
        for code in re.findall(r'"(pipeline/[a-z0-9-]+)"', path.read_text())
    }
    described = set(re.findall(r"`(pipeline/[a-z0-9-]+)`", (ROOT / "docs/reference/pipelines.md").read_text()))
    assert used - RUN_TIME - described == set()
    assert described - used == set()
