from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.testing.conformance import NoData, Outcome, run

GOOD = "image: alpine:3\npipelines:\n  default:\n    - step:\n        script: [x]\n"
BAD = GOOD + "        size: 3x\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("cases", "invalid", "warn"):
        (tmp_path / folder).mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps({"cases": [{"name": "a", "schema": "accepted"}, {"name": "b", "schema": "schema"}]}))
    return tmp_path


def outcomes(data: Path) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run("pipelines", data)}


def test_real_files(data: Path) -> None:
    (data / "cases/a.yml").write_text(BAD)
    (data / "cases/b.yml").write_text(GOOD)
    found = outcomes(data)
    assert "refused" in found["cases/a"].differences[0]
    assert "taken without a word" in found["cases/b"].differences[0]


def test_reasons(data: Path) -> None:
    files = {
        "invalid/right": (BAD, 'error: pipelines.default[0].step.size: "3x" is not a size (1x, 2x, 4x)'),
        "invalid/other": (BAD, "error: triggers: the condition of repository-push is missing"),
        "invalid/taken": (GOOD, "error: something"),
        "warn/right": (GOOD + "        artifacts: [../x]\n", 'warning: artifacts: "../x" leaves the clone directory'),
        "warn/line": (GOOD + "        artifacts: [../x]\n", 'warning: line 3: artifacts: "../x" leaves the clone directory'),
        "warn/silent": (GOOD, "warning: something"),
        "warn/refused": (BAD, "warning: size"),
    }
    for name, (text, reason) in files.items():
        (data / f"{name}.yml").write_text(text)
        (data / f"{name}.reason").write_text(reason + "\n")
    assert {name: outcome.passed for name, outcome in outcomes(data).items()} == {name: name.endswith("right") for name in files}


def test_no_manifest(data: Path) -> None:
    (data / "manifest.json").unlink()
    with pytest.raises(NoData):
        outcomes(data)
