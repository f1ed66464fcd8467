"""What `lamina doctor` is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamina.sandbox import survey, userns


def answers(monkeypatch: pytest.MonkeyPatch, uid: int, code: int = 0, out: str = "", err: str = "") -> list[str]:
    asked: list[str] = []

    def run(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(arguments[-1])
        return subprocess.CompletedProcess(arguments, code, out, err)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(userns, "why_no_range", lambda: None)
    return asked


def test_as_root_only_the_root_rung_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, 0, out="\n")
    assert [(f.rung, f.works) for f in survey.survey()] == [("root", True), ("userns", False), ("userns-single", False), ("none", True)]
    assert asked == ["root"]


def test_as_an_ordinary_user_the_namespaces_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, 1000, out="\n")
    assert [f.works for f in survey.survey()] == [False, True, True, True]
    assert asked == ["userns", "userns-single"]


def test_a_missing_range_is_not_tried_and_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, 1000, out="\n")
    monkeypatch.setattr(userns, "why_no_range", lambda: "newuidmap is not installed")
    found = survey.survey()[1]
    assert (found.works, found.detail) == (False, "newuidmap is not installed")
    assert "--add-subuids" in found.remedy
    assert asked == ["userns-single"]


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
