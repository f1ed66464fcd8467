from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.testing.conformance import KINDS, NoData, compare, run
from lamina.testing.conformance.__main__ import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "expected").mkdir()
    (tmp_path / "lex").mkdir()
    (tmp_path / "corpus" / "one.Dockerfile").write_text("FROM a\nUSER u\n")
    (tmp_path / "expected" / "one.json").write_text(
        json.dumps(
            {
                "error": None,
                "escape": "\\",
                "meta_args": [],
                "stages": [
                    {
                        "base": "a",
                        "name": "",
                        "line": 1,
                        "end_line": 1,
                        "commands": [{"name": "USER", "line": 2, "end_line": 2, "user": "u"}],
                    }
                ],
            }
        )
    )
    case = {"word": "$A", "result": "x", "error": None, "matched": ["A"], "unmatched": [], "words": ["x"]}
    (tmp_path / "lex" / "cases.json").write_text(json.dumps({"env": {"A": "x"}, "cases": [case, {**case, "result": "y"}]}))
    return tmp_path


def test_equal_cases_pass(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dockerfiles", str(data)]) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


def test_what_differs_is_printed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "corpus" / "one.Dockerfile").write_text("FROM a\nUSER v\n")
    assert main(["dockerfiles", str(data)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("FAILED one\n    stage 0, line 2: got ")
    assert out.endswith("0 passed, 1 failed\n")


def test_a_folder_or_its_parent(data: Path) -> None:
    for directory in (data, data / "lex"):
        assert [outcome.passed for outcome in run("lex", directory)] == [True, False]


def test_a_recorded_error_needs_an_error_at_its_line(data: Path) -> None:
    (data / "expected" / "one.json").write_text(json.dumps({"error": {"line": 2, "message": "m", "phase": "parse"}}))
    assert not next(iter(run("dockerfiles", data))).passed
    (data / "corpus" / "one.Dockerfile").write_text("FROM a\nUSR v\n")
    assert next(iter(run("dockerfiles", data))).passed
    (data / "corpus" / "one.Dockerfile").write_text("FRM a\nUSER v\n")
    assert not next(iter(run("dockerfiles", data))).passed


def test_wrong_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing", str(tmp_path)]) == 2
    assert main(["lex"]) == 2
    assert main(["lex", str(tmp_path)]) == 2
    assert "has none of" in capsys.readouterr().err
    with pytest.raises(NoData):
        list(run("dockerignore", tmp_path))


def test_kinds() -> None:
    assert set(KINDS) >= {"dockerfiles", "lex", "dockerignore", "graph"}
    assert compare("x", 1, 1) == ()
