"""The report's shape is a contract (docs/reference/report.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.cache.reason import Reason
from lamina.engine.exporters.place import CannotWrite
from lamina.engine.reporting import metadata_bytes, plan_bytes, report_bytes, report_document, write_report
from lamina.engine.request import BuildResult, BuiltImage, PlanResult, StepReport
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform

ID, MANIFEST = Digest("sha256:" + "1" * 64), Digest("sha256:" + "2" * 64)
IMAGE = BuiltImage(ID, MANIFEST, Platform("linux", "amd64"), 123, ("docker.io/library/app:1",))
RAN = StepReport(
    0, "build", 3, "COPY a /a", "ran", Reason("file-changed", "a changed", ("more",), ("a",), 7.04, "line 2: RUN x"),
    key="sha256:k", seconds=0.123456, saved=1.0, fetch_bytes=5, state="s", index=2,
)  # fmt: skip
PAGE = Path(__file__).resolve().parents[3] / "docs/reference/report.md"


def result(*steps: StepReport, images: tuple[BuiltImage, ...] = (IMAGE,)) -> BuildResult:
    return BuildResult("20260101-000000-abcdef", steps, images, 1.23456, ("mind",))


def test_a_step_with_all_it_can_have() -> None:
    assert report_document(result(RAN))["steps"] == [
        {
            "stage": 0, "stage_name": "build", "index": 2, "line": 3, "text": "COPY a /a", "verdict": "ran", "trigger": False,
            "reason": {"code": "file-changed", "message": "a changed", "details": ["more"], "paths": ["a"], "root_step": "line 2: RUN x", "record_age": 7.0},
            "seconds": 0.1235, "saved_seconds": 1.0, "key": "sha256:k", "state": "s", "fetch_bytes": 5,
        }
    ]  # fmt: skip


def test_every_field_stands_on_the_page() -> None:
    page = PAGE.read_text()
    document = report_document(result(RAN))
    (step,) = document["steps"]
    missing = [
        name
        for name in (*step, *document, *step["reason"])
        if f"`{name}`" not in page and f'"{name}"' not in page and f".{name}" not in page
    ]
    assert missing == []


def test_a_failed_step_ran_and_says_that_it_failed() -> None:
    step = StepReport(0, "", 1, "RUN false", "failed", Reason("first-build", "first build"))
    (document,) = report_document(result(step))["steps"]
    assert (document["verdict"], document["failed"]) == ("ran", True)
    assert "key" not in document


def test_the_whole_document() -> None:
    document = json.loads(report_bytes(result()))
    assert list(document) == ["schema", "build", "seconds", "steps", "image", "images", "warnings"]
    assert document["image"] == document["images"][0]
    assert document["image"]["platform"] == "linux/amd64"
    assert (document["schema"], document["warnings"]) == (1, ["mind"])
    assert json.loads(report_bytes(result(images=())))["image"] == {}


def test_a_plan() -> None:
    document = json.loads(plan_bytes(PlanResult((RAN,), complete=False, fetch_bytes=9, seconds_at_stake=1.5)))
    assert (document["complete"], document["fetch_bytes"], document["seconds_at_stake"]) == (False, 9, 1.5)
    assert document["steps"][0]["reason"]["code"] == "file-changed"


def test_metadata_has_buildx_names() -> None:
    document = json.loads(metadata_bytes(result()))
    assert document["containerimage.config.digest"] == ID
    assert document["containerimage.digest"] == MANIFEST
    assert document["image.name"] == "docker.io/library/app:1"


def test_a_report_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    write_report(path, result(RAN))
    assert json.loads(path.read_text())["build"] == "20260101-000000-abcdef"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="No such file or directory"):
        write_report(tmp_path / "none/report.json", result())
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite, match="Is a directory"):
        write_report(tmp_path / "folder", result())
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
