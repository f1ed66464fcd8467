"""Which user namespace is entered, and what is said when none can be. What it gives is in testing/conformance/sandbox.py."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.sandbox import userns
from lamina.sandbox.protocols import SandboxUnavailable
from lamina.sandbox.userns import Kind


def subids(folder: Path, text: str) -> str:
    path = folder / "subuid"
    path.write_text(text)
    return str(path)


def test_ranges_by_number_and_by_name(tmp_path: Path) -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    path = subids(
        tmp_path, f"# comment\n{os.getuid()}:100000:65536\n{name}:200000:10\nother:300000:5\n\nbroken\n{name}:x:1\n{name}:1:0\n{name}:7\n"
    )
    assert userns._ranges(path, os.getuid()) == [(100000, 65536), (200000, 10)]


def test_ranges_of_a_group_go_by_the_user(tmp_path: Path) -> None:
    """/etc/subgid names users, not groups (subgid(5))."""
    assert userns._ranges(subids(tmp_path, "4242:1:2\n77:5:6\n"), 77, 4242) == [(1, 2), (5, 6)]


def test_no_file_and_no_passwd_entry(tmp_path: Path) -> None:
    assert userns._ranges(str(tmp_path / "none"), 0) == []
    assert userns._ranges(subids(tmp_path, "4000000:1:2\n"), 4_000_000) == [(1, 2)]


def test_the_map_begins_with_us_and_has_no_holes() -> None:
    assert userns._map(1000, [(100000, 65536), (300000, 10)]) == ["0", "1000", "1", "1", "100000", "65536", "65537", "300000", "10"]


def test_what_is_missing_for_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert userns.why_no_range() == "newuidmap is not installed (Debian: uidmap)"
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    found = {"/etc/subuid": [(1, 2)], "/etc/subgid": []}
    monkeypatch.setattr(userns, "_ranges", lambda file, *_: found[file])
    assert "/etc/subgid has no range" in (userns.why_no_range() or "")
    found["/etc/subgid"] = [(1, 2)]
    assert userns.why_no_range() is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(userns, "may", lambda *_: False)
    assert "may not map ids" in (userns.why_no_range() or "")


@pytest.mark.parametrize(
    ("missing", "refused", "kind", "tried"),
    [
        (None, set(), "range", 0),
        ("no tool", set(), "single", 1),
        (None, {"range"}, "single", 1),
        (None, {"range", "single"}, None, 2),
        ("no tool", {"single"}, None, 2),
    ],
)
def test_the_best_that_works(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, refused: set[str], kind: Kind | None, tried: int
) -> None:
    def enter(wanted: Kind) -> None:
        if wanted in refused:
            raise SandboxUnavailable(f"{wanted} refused")

    monkeypatch.setattr(userns, "why_no_range", lambda: missing)
    monkeypatch.setattr(userns, "enter", enter)
    entered, reasons = userns.enter_best()
    assert (entered, len(reasons)) == (kind, tried)


def test_a_forced_range_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "why_no_range", lambda: "no tool")
    with pytest.raises(SandboxUnavailable, match="no tool") as caught:
        userns.enter("range")
    assert "userns-single" in (caught.value.hint or "")


def in_a_process(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


_ENTER = """
import os, sys, threading
from lamina.sandbox import userns
from lamina.sandbox.protocols import SandboxUnavailable
if THREADS:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    userns.enter("single")
    print(os.geteuid(), open("/proc/self/uid_map").read().split(), open("/proc/self/setgroups").read().strip())
except SandboxUnavailable as error:
    print("refused:", error.hint)
"""


def test_single_maps_us_to_root_and_nothing_else() -> None:
    said = in_a_process(_ENTER.replace("THREADS", "False"))
    if said.startswith("refused"):
        pytest.skip(said)
    assert said.strip() == f"0 ['0', '{os.geteuid()}', '1'] deny"


def test_a_process_with_threads_is_told_so() -> None:
    said = in_a_process(_ENTER.replace("THREADS", "True"))
    assert said.startswith("refused: ")
    assert "threads" in said or "switched off" in said
