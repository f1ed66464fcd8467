"""`lamina pipeline lint|plan`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lamina = Callable[..., Any]

FILE = """image: alpine:3.20
pipelines:
  default:
    - parallel:
      - step: {name: One, caches: [docker], services: [docker], script: [docker build .]}
      - step: {name: Two, caches: [docker], services: [docker], script: [docker build .]}
  custom:
    nightly:
      - variables: [{name: DAYS, allowed-values: ['1', '3']}]
      - step: {script: [echo $DAYS], deployment: prod}
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    (root / "bitbucket-pipelines.yml").write_text(FILE)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)
    return root


def test_lint_warns_with_file_and_line(lamina: Lamina, repository: Path) -> None:
    said = lamina("pipeline", "lint")
    assert said.code == 0
    assert "bitbucket-pipelines.yml:5:" in said.out
    assert "2 parallel steps share" in said.out
    assert "1 finding" in said.err


def test_lint_ends_with_1_on_an_error_in_each_form(lamina: Lamina, repository: Path) -> None:
    (repository / "bad.yml").write_text(FILE.replace("script: [docker build .]}", "scrip: [x]}", 1))
    assert lamina("pipeline", "lint", "-f", "bad.yml").code == 1
    as_json = lamina("pipeline", "lint", "-f", "bad.yml", "--json")
    assert as_json.code == 1
    assert any(item["severity"] == "error" and item["spans"][0]["line"] == 5 for item in json.loads(as_json.out))
    document = json.loads(lamina("pipeline", "lint", "-f", "bad.yml", "--sarif").out)
    assert any(result["level"] == "error" for result in document["runs"][0]["results"])


def test_lint_of_a_file_that_is_not_there_or_not_text(lamina: Lamina, repository: Path) -> None:
    assert lamina("pipeline", "lint", "-f", "gone.yml").code == 66
    (repository / "binary.yml").write_bytes(b"a: \xff\n")
    said = lamina("pipeline", "lint", "-f", "binary.yml")
    assert said.code == 2
    assert "not UTF-8" in said.err


def test_plan_of_the_branch_that_is_checked_out(lamina: Lamina, repository: Path) -> None:
    said = lamina("pipeline", "plan")
    assert said.code == 0
    assert "in parallel:" in said.out
    assert "image alpine:3.20, size 1x, 3072 MB for the build" in said.out


def test_plan_of_a_custom_pipeline(lamina: Lamina, repository: Path) -> None:
    document = json.loads(lamina("pipeline", "plan", "--custom", "nightly", "--var", "DAYS=3", "--json").out)
    assert document["pipeline"] == {"kind": "custom", "name": "nightly", "line": 8}
    assert [problem["code"] for problem in document["problems"]] == ["pipeline/deployment-variables"]
    given = lamina("pipeline", "plan", "--custom", "nightly", "--var", "DAYS=3", "--deployment-var", "prod:A=b", "--json")
    assert json.loads(given.out)["problems"] == []
    refused = lamina("pipeline", "plan", "--custom", "nightly", "--var", "DAYS=2")
    assert refused.code == 2
    assert "allowed are 1, 3" in refused.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--branch", "a", "--tag", "b"], 2, "exclude each other"),
        (["--custom", "nigthly"], 2, 'did you mean "nightly"'),
        (["--tag", "v1"], 0, "no pipeline for a tag"),
        (["--deployment-var", "A=b"], 2, "ENV:NAME=VALUE"),
        (["--since", "nowhere"], 66, "nowhere"),
    ],
)
def test_requests(lamina: Lamina, repository: Path, options: list[str], code: int, words: str) -> None:
    said = lamina("pipeline", "plan", *options)
    assert said.code == code
    assert words in said.out + said.err


def test_plan_ends_with_69_when_it_cannot_run_here(lamina: Lamina, repository: Path) -> None:
    (repository / "bitbucket-pipelines.yml").write_text("pipelines:\n  default:\n    import: shared:main:build\n")
    said = lamina("pipeline", "plan")
    assert said.code == 69
    assert "bitbucket-pipelines.yml:3:" in said.err


def test_an_imported_file_is_never_read_through_a_link_to_the_outside(lamina: Lamina, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.yml").write_text("export: true\ndefinitions: {pipelines: {p: [{step: {script: [x]}}]}}\n")
    (repository / "shared-pipelines.yml").symlink_to(tmp_path / "outside.yml")
    (repository / "bitbucket-pipelines.yml").write_text(
        "definitions: {imports: {s: shared-pipelines.yml}}\npipelines: {default: {import: p@s}}\n"
    )
    said = lamina("pipeline", "plan")
    assert said.code == 2
    assert "not in the repository" in said.err


def test_fix_prints_a_diff_that_git_applies(lamina: Lamina, repository: Path) -> None:
    said = lamina("pipeline", "fix")
    assert said.code == 0
    subprocess.run(["git", "apply", "-"], input=said.out.encode(), check=True)
    assert "sharing" not in lamina("pipeline", "lint").out
    assert "no parallel steps share" in lamina("pipeline", "fix").err


def test_fix_writes_the_file_with_its_mode(lamina: Lamina, repository: Path) -> None:
    file = repository / "bitbucket-pipelines.yml"
    file.chmod(0o640)
    assert lamina("pipeline", "fix", "--write").code == 0
    assert "docker load" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in repository.iterdir() if path.name != ".git"] == [file.name]
