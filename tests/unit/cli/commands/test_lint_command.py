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


def test_sarif_and_skip(lamina: Lamina, app: Path) -> None:
    (app / "other").write_text("from scratch as a\nCOPY a /a\nCMD x\n")
    document = json.loads(lamina("lint", "-f", "other", "--sarif").out)
    assert {item["ruleId"] for item in document["runs"][0]["results"]} >= {"ConsistentInstructionCasing", "JSONArgsRecommended"}
    rules = {rule["id"]: rule for rule in document["runs"][0]["tool"]["driver"]["rules"]}
    assert rules["JSONArgsRecommended"]["shortDescription"]["text"].startswith("CMD and ENTRYPOINT as JSON")
    left = lamina("lint", "-f", "other", "--skip", "ConsistentInstructionCasing,JSONArgsRecommended", "--json", ".")
    assert json.loads(left.out) == []
    assert "did you mean LatestBase?" in lamina("lint", "--skip", "LatestBas").err


def test_check_fails_for_warnings_and_not_for_advice(lamina: Lamina, app: Path) -> None:
    (app / "other").write_text("FROM scratch\nCOPY a /a\nCMD x\n")
    said = lamina("build", "--check", "-f", "other", ".")
    assert said.code == 1
    assert "rule: JSONArgsRecommended" in said.out
    (app / "other").write_text('FROM base\nCMD ["x"]\n')
    said = lamina("build", "--check", "-f", "other", ".")
    assert said.code == 0
    assert "rule: LatestBase" in said.out


def test_a_dockerfile_from_standard_input_as_context(lamina: Lamina) -> None:
    assert lamina("lint", "-", stdin=b"FROM scratch\nCPOY a /a\n").code == 1
    assert "can be checked" in lamina("lint", "https://host.example/app.git").err


def test_error_true_ends_a_build(lamina: Lamina, app: Path) -> None:
    (app / "other").write_text("# check=error=true\nFROM scratch\nCOPY a /a\nCMD x\n")
    said = lamina("build", "-f", "other", ".")
    assert said.code == 2
    assert "JSON arguments recommended" in said.err
    assert "START" not in said.err
    (app / "other").write_text("# check=skip=all;error=true\nFROM scratch\nCOPY a /a\nCMD x\n")
    assert lamina("build", "-q", "-f", "other", ".").code == 0
