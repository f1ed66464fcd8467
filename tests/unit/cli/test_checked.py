from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lamina.cli import checked
from lamina.engine.request import BuildRequest

TEXT = "from scratch\nCOPY a /\nENV KEY value\n"


def request(text: str, tmp_path: Path) -> BuildRequest:
    return BuildRequest(context=tmp_path, dockerfile_text=text, dockerfile_name="Dockerfile")


def test_counted_once_for_one_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checked.line(request(TEXT, tmp_path), tmp_path / "kept")
    assert first is not None
    assert first.endswith("warnings found (use --check to expand)")
    monkeypatch.setattr(checked, "_count", lambda asked: pytest.fail("counted again"))
    assert checked.line(request(TEXT, tmp_path), tmp_path / "kept") == first


def test_another_dockerfile_or_ignore_file_is_counted(tmp_path: Path) -> None:
    assert checked.line(request("FROM scratch\nCOPY a /\n", tmp_path), tmp_path / "kept") is None
    assert checked.line(request("FROM scratch\nMAINTAINER me\n", tmp_path), tmp_path / "kept") == "1 warning found (use --check to expand)"
    ignoring = msgspec.structs.replace(request("FROM scratch\nCOPY a /\n", tmp_path), ignore_text="a\n")
    assert checked.line(ignoring, tmp_path / "kept") == "1 warning found (use --check to expand)"
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_number_that_is_none_is_counted_again(tmp_path: Path) -> None:
    first = checked.line(request(TEXT, tmp_path), tmp_path)
    (kept,) = tmp_path.glob("checks-*")
    kept.write_bytes(b"\xff many")
    assert checked.line(request(TEXT, tmp_path), tmp_path) == first
