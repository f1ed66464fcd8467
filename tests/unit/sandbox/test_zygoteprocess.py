"""The zygote: started early, ended whether it was used or not."""

from __future__ import annotations

import os
import socket
import time

import pytest

from lamina.sandbox.zygoteprocess import ZygoteProcess


def test_one_that_was_never_used_ends_at_once_and_leaves_no_process() -> None:
    process = ZygoteProcess()
    pid = process._process.pid
    process.end()
    process.end()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert not os.path.exists(f"/proc/{pid}/environ")


def test_one_that_was_ended_takes_no_run() -> None:
    process = ZygoteProcess()
    process.end()
    with pytest.raises(BrokenPipeError):
        process.send(b"R", [])


def test_it_ends_with_its_owner() -> None:
    """The owner was killed with SIGKILL: the control socket's end of file is all that it hears of it."""
    read, write = socket.socketpair()
    owner = os.fork()
    if owner == 0:
        try:
            write.send(str(ZygoteProcess()._process.pid).encode())
            time.sleep(60)
        finally:
            os._exit(0)
    pid = int(read.recv(32))
    os.kill(owner, 9)
    os.waitpid(owner, 0)
    deadline = time.monotonic() + 120
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)
    read.close()
    write.close()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
