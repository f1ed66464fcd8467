"""A job's process: its output, its end, and that nothing of it outlives it. Programs here are small scripts in place of lamina."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lamina.pipelines.remote.job import ERRORS, Ended, Process, run_job


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", text)


FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
def child(level):
    if os.fork():
        return
    if level == 2:
        os.setsid()  # as a daemon does: no group and no session of its parent
        if os.fork():
            os._exit(0)
    sys.stdout.write(f"{os.getpid()}\\n"); sys.stdout.flush()
    time.sleep(1000)
child(1); child(2)
sys.stdout.write(f"command {os.getpid()}\\n"); sys.stdout.flush()
time.sleep(1000)
"""
"""Three processes that print their pids and stay; one of them is a daemon. The first one ends of SIGUSR1."""


def opened(text: bytes) -> tuple[int, list[int]]:
    """(pid of the command, descriptors of all three)."""
    lines = text.decode().splitlines()
    (command,) = (int(line.partition(" ")[2]) for line in lines if line.startswith("command "))
    return command, [os.pidfd_open(int(line.rpartition(" ")[2])) for line in lines]


def family(process: Process) -> tuple[int, list[int]]:
    text = b""
    while text.count(b"\n") < 3:
        piece = process.read()
        assert piece, "it has ended"
        text += piece
    return opened(text)


@contextmanager
def renewed(process: Process) -> Iterator[None]:
    """Somebody speaks for the job meanwhile."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.05):
            process.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def all_end(descriptors: list[int]) -> None:
    for number in descriptors:
        assert select.select([number], [], [], 120)[0], "a process of the job is alive"
        os.close(number)


def test_output_comes_in_pieces_and_whole() -> None:
    said: list[bytes] = []
    ended = run_job(python("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read() * 3)"), b"0123456789" * 100_000, said.append)
    assert ended == Ended(0)
    assert b"".join(said) == b"0123456789" * 300_000
    assert len(said) > 10


def test_output_is_live() -> None:
    process = Process(python("import sys\nprint('first', flush=True)\nsys.stdin.read()\nimport time; time.sleep(1000)"), b"", 1000)
    assert process.read() == b"first\n"
    process.kill()
    assert process.read() == b""
    assert process.end().code == -signal.SIGKILL


def test_exit_code_and_the_end_of_the_errors() -> None:
    ended = run_job(python("import sys\nfor each in range(5000): print(each, file=sys.stderr)\nsys.exit(3)"), b"", lambda piece: None)
    assert ended.code == 3
    assert ended.errors.endswith(b"4998\n4999\n")
    assert len(ended.errors) == ERRORS


def test_a_signal_is_a_negative_code() -> None:
    assert run_job(python("import os; os.kill(os.getpid(), 11)"), b"", lambda piece: None).code == -11


def test_a_command_that_is_not_there() -> None:
    ended = run_job(("/nowhere/lamina", "x"), b"", lambda piece: None)
    assert ended == Ended(127, failed="/nowhere/lamina: No such file or directory")


def test_the_payload_is_in_no_argument_and_no_environment() -> None:
    said: list[bytes] = []
    run_job(python("print(open('/proc/self/cmdline').read(), open('/proc/self/environ').read())"), b"s3cret", said.append)
    assert b"s3cret" not in b"".join(said)


def test_the_command_gets_no_other_descriptor() -> None:
    said: list[bytes] = []
    run_job(python("import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"), b"", said.append)
    assert b"".join(said).strip() == b"[0, 1, 2, 3]"  # 3: the listing itself


def test_kill_takes_the_whole_family() -> None:
    process = Process(python(FAMILY), b"", 1000)
    _, pids = family(process)
    process.kill()
    process.kill()
    assert process.read() == b""
    assert process.end().code == -signal.SIGKILL
    all_end(pids)


def test_what_a_job_leaves_behind_ends_with_it() -> None:
    process = Process(python(FAMILY), b"", 1000)
    command, pids = family(process)
    os.kill(command, signal.SIGUSR1)
    assert process.read() == b""
    assert process.end() == Ended(0)
    all_end(pids)


def test_without_renewal_the_lease_ends() -> None:
    process = Process(python(FAMILY), b"", 4.0)
    with renewed(process):
        _, pids = family(process)
    assert process.read() == b""
    assert process.end().code == -signal.SIGKILL
    all_end(pids)


@pytest.mark.slow
def test_renewal_keeps_it() -> None:
    process = Process(python("import time; time.sleep(6); print('well')"), b"", 4.0)
    with renewed(process):
        assert process.read() == b"well\n"
    assert process.read() == b""
    assert process.end() == Ended(0)


WORKER = """
import sys
from lamina.pipelines.remote.job import Process
process = Process([sys.executable, "-I", "-S", "-c", sys.argv[1]], b"", 1000)
while piece := process.read():
    sys.stdout.buffer.write(piece); sys.stdout.buffer.flush()
"""


@pytest.mark.parametrize("group", [False, True], ids=["the process", "its group"])
def test_a_killed_worker_leaves_nothing(group: bool) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    with worker:
        assert worker.stdout is not None
        _, pids = opened(b"".join(worker.stdout.readline() for _ in range(3)))
        if group:
            os.killpg(worker.pid, signal.SIGKILL)
        else:
            worker.kill()
    all_end(pids)


def test_a_killed_guard_takes_the_command_along() -> None:
    process = Process(python(FAMILY.replace("os.setsid()", "pass")), b"", 1000)
    command, pids = family(process)
    with open(f"/proc/{command}/stat", "rb") as file:
        guard = int(file.read().rpartition(b")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    process.read()
    assert process.end().code == -signal.SIGKILL
    all_end(pids)
