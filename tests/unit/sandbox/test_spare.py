"""The helper that waits for its run (standalone/zygote.py, Spare), with real runs: it is used, replaced, and does without where it is gone."""

from __future__ import annotations

import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.sandbox.protocols import Overlay, SandboxSpec
from lamina.sandbox.zygote import Zygote
from lamina.sandbox.zygoteprocess import ZygoteProcess
from lamina.solver.cancel import CancelToken
from lamina.testing import bases

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="overlay mounts of this test need root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]
PATIENCE = 120.0


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry))
    return found


def spare_of(process: ZygoteProcess, but: int = 0) -> int:
    """The waiting helper, once its PID 1 stands; not `but`, which may take a moment to end."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for helper in children(process.pid):
            if helper != but and children(helper):
                return helper
        time.sleep(0.01)
    raise AssertionError("no helper waits")


def wait_for_the_end_of(*pids: int) -> None:
    end = time.monotonic() + PATIENCE
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < end, "a helper stays"
        time.sleep(0.01)


class Runs:
    def __init__(self, folder: Path) -> None:
        self.base = folder / "base"
        with tarfile.open(bases.busybox_tar(folder / "base.tar")) as archive:
            archive.extractall(self.base, filter="fully_trusted")
        self.folder = folder
        self.process = ZygoteProcess()
        self.zygote = Zygote(userxattr=False, process=self.process)

    def __call__(self, script: str, **more: object) -> tuple[int, bytes]:
        own = Path(tempfile.mkdtemp(dir=self.folder))
        upper, work = own / "upper", own / "work"
        upper.mkdir()
        work.mkdir()
        said: list[bytes] = []
        spec = SandboxSpec(Overlay((self.base,), upper, work), ("/bin/sh", "-c", script), ("PATH=/bin",), **more)  # type: ignore[arg-type]  # fields by name
        report = self.zygote.run(spec, lambda _, data: said.append(data), CancelToken())
        return report.exit_code, b"".join(said)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    made.zygote.close()


def test_each_run_takes_the_waiting_helper_and_leaves_another(run: Runs) -> None:
    first = spare_of(run.process)
    assert run("echo $$; exit 7") == (7, b"1\n")
    spare_of(run.process, but=first)
    wait_for_the_end_of(first)
    assert run("echo again") == (0, b"again\n")


def test_a_run_that_needs_more_leaves_the_waiting_helper_alone(run: Runs) -> None:
    spare = spare_of(run.process)
    code, said = run("cat /proc/net/dev", network="none")
    assert code == 0
    assert b"lo:" in said
    assert said.count(b":") == 1  # a network of its own
    assert spare_of(run.process) == spare


def test_without_the_waiting_helper_runs_go_on(run: Runs) -> None:
    spare = spare_of(run.process)
    os.kill(spare, 9)
    end = time.monotonic() + PATIENCE
    while spare in children(run.process.pid) and time.monotonic() < end:  # its end of the socket is closed when it is dead
        time.sleep(0.01)
    assert run("echo one") == (0, b"one\n")
    assert run("echo two") == (0, b"two\n")


def test_the_one_that_waits_ends_with_the_zygote(tmp_path: Path) -> None:
    process = ZygoteProcess()
    helper = spare_of(process)
    first = children(helper)[0]
    process.end()
    wait_for_the_end_of(helper, first)


def test_a_run_of_a_build_that_is_cancelled_already_ends(run: Runs) -> None:
    """What was asked at once came before the run itself: the helper took it for the size of the document, and both waited for ever. Faults of
    the disk showed it: one step fails while another begins."""
    token = CancelToken()
    token.cancel()
    own = Path(tempfile.mkdtemp(dir=run.folder))
    (own / "upper").mkdir()
    (own / "work").mkdir()
    spec = SandboxSpec(Overlay((run.base,), own / "upper", own / "work"), ("/bin/sleep", "1000"), ("PATH=/bin",))
    report = run.zygote.run(spec, lambda stream, data: None, token)
    assert report.exit_code in (137, 143)


def test_runs_side_by_side_each_have_their_own(run: Runs) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: run(f"hostname h{number} 2>/dev/null; echo {number} > /n; cat /n"), range(8)))
    assert sorted(said for _, said in made) == sorted(b"%d\n" % number for number in range(8))
