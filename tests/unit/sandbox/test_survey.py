"""What `lamina doctor` is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamina.sandbox import rungs, survey, userns


def answers(
    monkeypatch: pytest.MonkeyPatch, uid: int, code: int = 0, out: str = "", err: str = "", refused: dict[str, str] | None = None
) -> list[str]:
    """Nothing is tried for real; returns the rungs that were asked for."""
    asked: list[str] = []

    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[3])
        return subprocess.CompletedProcess(arguments, code, out, err)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(rungs, "why_not", lambda rung: (refused or {}).get(rung))
    monkeypatch.setattr(rungs, "on_overlay", lambda place: False)
    monkeypatch.setattr(userns, "why_no_range", lambda: (refused or {}).get("userns"))
    return asked


def works(found: tuple[rungs.Finding, ...]) -> list[str]:
    return [finding.rung for finding in found if finding.works]


def test_root_needs_no_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, 0, out="\n")
    found = survey.survey()
    assert [finding.rung for finding in found] == list(rungs.RUNGS)
    assert not {"userns", "userns-single"} & set(works(found))
    assert "root" in asked
    assert not {"userns", "userns-single"} & set(asked)


def test_root_that_may_not_mount_is_told_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 0, out="\n", refused={"root": "this root may not mount"})
    found = survey.survey()
    assert (found[0].works, found[0].detail) == (False, "this root may not mount")
    assert "SYS_ADMIN" in found[0].remedy
    assert {"userns", "chroot"} <= set(works(found))


def test_as_an_ordinary_user_the_namespaces_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, 1000, out="\n", refused={"root": "it needs uid 0", "chroot": "it needs uid 0", "proot": "not installed"})
    found = works(survey.survey())
    assert found[0] == "userns"
    assert {"root", "chroot", "proot"}.isdisjoint(asked)


def test_a_missing_range_is_not_tried_and_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, 1000, out="\n", refused={"userns": "newuidmap is not installed"})
    found = next(finding for finding in survey.survey() if finding.rung == "userns")
    assert (found.works, found.detail) == (False, "newuidmap is not installed")
    assert "--add-subuids" in found.remedy
    assert "userns" not in asked


def test_a_store_on_a_containers_own_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, 0, out="\n")
    monkeypatch.setattr(rungs, "on_overlay", lambda place: place == tmp_path)
    found = survey.survey(tmp_path / "not" / "made")
    assert "own disk" in found[0].detail
    assert "volume" in found[0].remedy
    assert works(found)[0] == "chroot"


@pytest.mark.parametrize(
    ("code", "out", "err", "detail"),
    [
        (0, "mounts: Permission denied\n", "", "mounts: Permission denied"),
        (1, "", "Traceback\nValueError: odd\n", "ValueError: odd"),
        (-9, "", "", "it ended without a word"),
    ],
)
def test_what_did_not_work(monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str, detail: str) -> None:
    answers(monkeypatch, 0, code, out, err)
    found = survey.survey()[0]
    assert (found.works, found.detail) == (False, detail)
    assert found.remedy


@pytest.mark.parametrize(
    ("file", "value", "remedy"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "max_user_namespaces=10000"),
        (None, "", "seccomp=unconfined"),
    ],
)
def test_the_remedy_is_of_this_machine(monkeypatch: pytest.MonkeyPatch, file: str | None, value: str, remedy: str) -> None:
    def read_text(path: Path) -> str:
        if file is not None and path == Path("/proc/sys", file):
            return value + "\n"
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", read_text)
    assert remedy in survey._namespace_remedy()
