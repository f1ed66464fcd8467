"""The zygote: started early, ended whether it was used or not."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress

import pytest

from lamina.sandbox.zygoteprocess import ZygoteProcess


def test_one_that_was_never_used_ends_at_once_and_leaves_no_process() -> None:
    process = ZygoteProcess()
    pid = process.pid
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


def open_in(pid: int) -> dict[str, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[name] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def test_it_holds_nothing_open_that_its_owner_was_given() -> None:
    """A descriptor that a CI service leaves open to what it starts must not come near a RUN; nor does the folder stay busy."""
    given = os.open("/etc/passwd", os.O_RDONLY)
    high = fcntl.fcntl(given, fcntl.F_DUPFD, 500)
    os.set_inheritable(given, True)
    os.set_inheritable(high, True)
    process = ZygoteProcess()
    try:
        found = open_in(process.pid)
        deadline = time.monotonic() + 120
        while any("passwd" in target for target in found.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
            found = open_in(process.pid)
        assert (found["0"], found["1"]) == (os.devnull, os.devnull)
        assert found["3"].startswith("socket:")
        assert not any("passwd" in target for target in found.values()), found
        assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
    finally:
        process.end()
        os.close(given)
        os.close(high)


def test_it_ends_with_its_owner() -> None:
    """The owner was killed with SIGKILL: the control socket's end of file is all that it hears of it."""
    read, write = socket.socketpair()
    owner = os.fork()
    if owner == 0:
        try:
            write.send(str(ZygoteProcess().pid).encode())
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
