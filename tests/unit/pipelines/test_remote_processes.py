"""Worker processes: order, what they print, how they end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.remote.cluster import Cluster, Job, JobStopped, Needs, WorkerLost
from lamina.pipelines.remote.frames import frame
from lamina.pipelines.remote.processes import Processes

NEEDS = Needs(1, 1)


def cluster(script: str) -> Processes:
    return Processes([(sys.executable, "-S", "-c", script)])


def job(payload: bytes = b"", priority: int = 0) -> Job:
    return Job("1. job", payload, NEEDS, priority)


def nothing(piece: bytes) -> None:
    pass


ECHO = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"


def test_what_a_job_prints_and_its_last_message() -> None:
    made: Cluster = cluster(ECHO)
    said: list[bytes] = []
    payload = frame("line", b"one") + frame("result", b"early") + frame("line", b"x" * 200_000) + frame("result", b"late")
    assert made.submit(job(payload), said.append).result() == b"late"
    assert b"".join(said) == payload
    made.close()
    made.close()


def test_the_higher_priority_begins_first() -> None:
    started = threading.Event()
    free = threading.Event()
    order: list[bytes] = []
    made = cluster(ECHO)

    def first(piece: bytes) -> None:
        started.set()
        free.wait()

    runs = [made.submit(job(frame("result", b"first")), first)]
    started.wait()
    for priority in (1, 5, 3, 5):
        payload = frame("result", f"{priority}".encode())
        runs.append(made.submit(job(payload, priority), order.append))
    free.set()
    for run in runs:
        run.result()
    assert [piece[-1:] for piece in order] == [b"5", b"5", b"3", b"1"]
    made.close()


def test_a_killed_job_is_a_lost_worker() -> None:
    made = cluster("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(WorkerLost, match="ended by SIGKILL"):
        made.submit(job(), nothing).result()
    made.close()


def test_an_answer_counts_however_the_process_ends() -> None:
    made = cluster(ECHO + "; sys.stdout.flush(); import os; os.kill(os.getpid(), 9)")
    assert made.submit(job(frame("result", b"x")), nothing).result() == b"x"
    made.close()


def test_a_job_without_an_answer_says_why() -> None:
    made = cluster("import sys; print('no such command', file=sys.stderr); sys.exit(2)")
    with pytest.raises(LaminaError, match="exit code 2: no such command"):
        made.submit(job(), nothing).result()
    made.close()
    made = Processes([("/no/such/program",)])
    with pytest.raises(LaminaError, match="No such file"):
        made.submit(job(), nothing).result()
    made.close()
    with pytest.raises(LaminaError, match="were closed"):
        made.submit(job(), nothing)


SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True, stdout=subprocess.DEVNULL)
sys.stdout.buffer.write(b"B\\0\\0\\0\\x08%08d" % child.pid)
sys.stdout.flush()
time.sleep(600)
"""


def test_cancel_ends_a_job_with_all_its_children() -> None:
    made = cluster(SLEEPER)
    pids: list[int] = []
    begun = threading.Event()

    def said(piece: bytes) -> None:
        pids.append(int(piece[5:]))
        begun.set()

    run = made.submit(job(), said)
    waiting = made.submit(job(), said)
    begun.wait()
    waiting.cancel()
    run.cancel()
    run.cancel()
    for one in (run, waiting):
        with pytest.raises(JobStopped) as stopped:
            one.result()
        assert stopped.value.exit_code == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    made.close()


def test_close_ends_everything() -> None:
    made = cluster(SLEEPER)
    begun = threading.Event()
    run = made.submit(job(), lambda piece: begun.set())
    waiting = made.submit(job(), nothing)
    begun.wait()
    made.close()
    for one in (run, waiting):
        with pytest.raises(JobStopped):
            one.result()


def test_a_reader_that_fails_ends_the_job() -> None:
    made = cluster(SLEEPER)

    def said(piece: bytes) -> None:
        raise ValueError("no")

    with pytest.raises(LaminaError, match="ValueError: no"):
        made.submit(job(), said).result()
    made.close()


def test_a_job_that_prints_anything_else_is_refused() -> None:
    made = cluster("print('hello, world')")
    with pytest.raises(LaminaError, match="no message of lamina"):
        made.submit(job(), nothing).result()
    made.close()


def test_what_fits_nowhere_is_known_before() -> None:
    made = Processes([(sys.executable,)], memory=8192, cpus=2, labels=frozenset({"gpu"}))
    assert made.fits(Needs(8192, 2, "gpu")) == ""
    assert made.fits(Needs(8193, 1)) == "it needs 8193 MB; each worker has 8192 MB"
    assert made.fits(Needs(1, 4)) == "it needs 4 processors; each worker has 2"
    assert made.fits(Needs(1, 1, "ssd")) == 'no worker has the label "ssd"; labels are gpu'
    made.close()
    made = cluster(ECHO)
    assert made.fits(Needs(1 << 30, 64)) == ""
    assert "none has any" in made.fits(Needs(1, 1, "x"))
    made.close()


def test_the_end_of_this_process_ends_its_jobs(tmp_path: Path) -> None:
    code = f"""
import sys, threading
from lamina.pipelines.remote.cluster import Job, Needs
from lamina.pipelines.remote.processes import Processes
made = Processes([(sys.executable, "-S", "-c", {SLEEPER!r})])
made.submit(Job("x", b"", Needs(1, 1), 0), lambda piece: print(int(piece[5:]), flush=True)).result()
"""
    import subprocess

    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        parent.send_signal(signal.SIGKILL)
    import select

    poll = select.poll()
    poll.register(watch, select.POLLIN)
    assert poll.poll(30_000)
    os.close(watch)
