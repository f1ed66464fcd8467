"""The guard of one job on a worker: starts the command, and kills its whole tree when the command ends, when nobody speaks for the job any more, or when the worker dies.

Started by path (`python -I -S guard.py LIFELINE STATUS WORKER LEASE COMMAND …`); standard library only. The process that was started ends at once: the guard is its
child, in a session of its own, so that what kills a worker's process group or children (ray does) does not kill the guard too.
LIFELINE: a descriptor; each byte renews the lease of LEASE seconds, EOF means kill. WORKER: the pid whose end means kill. STATUS: a descriptor that gets
`guard PID` (also its session), `started PID` and at the end, when no process of the job is left, `ended CODE` (as waitstatus_to_exitcode has it) or `failed WORDS`, a line each.
Standard input, output and errors are the command's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
TIDY = 1.0  # seconds that helpers of a command that ended have to end by themselves: lamina's take their control groups away
LONGEST = 30.0  # seconds after which what does not die (it waits for a disk) is left


def main(lifeline: int, status: int, worker: int, lease: float, command: list[str]) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.set_inheritable(lifeline, False)
    os.set_inheritable(status, False)
    say(status, f"guard {os.getpid()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched = select.poll()
    watched.register(woken, select.POLLIN)
    watched.register(lifeline, select.POLLIN)
    try:
        watched.register(os.pidfd_open(worker), select.POLLIN)
    except OSError:  # it is gone already, or the kernel is older than 5.3: the lifeline ends too
        pass
    first = start(command, libc, status)
    if first:
        say(status, f"started {first}")
        release()
        code = wait(first, watched, woken, lifeline, lease)
        if code is None:
            kill(first)
        end()
        # The command was killed here: its code is that of the kill.
        say(status, f"ended {-signal.SIGKILL if code is None else code}")


def release() -> None:
    """The guard holds no end of the job's pipes."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)


def start(command: list[str], libc: ctypes.CDLL, status: int) -> int:
    """The command's pid, or 0 where it cannot be started: STATUS has why."""
    guard = os.getpid()
    told, tells = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(tells, f"{command[0]}: {error.strerror}".encode(errors="replace"))
        finally:
            os._exit(127)
    os.close(tells)
    why = os.read(told, 1000)
    os.close(told)
    if not why:
        return child
    os.waitpid(child, 0)
    say(status, "failed " + why.decode(errors="replace").replace("\n", " "))
    return 0


def wait(first: int, watched: select.poll, woken: int, lifeline: int, lease: float) -> int | None:
    """Until the command ends: its code. None where it is to be killed."""
    until = time.monotonic() + lease
    while True:
        ready = [number for number, _ in watched.poll(min(max(0.0, until - time.monotonic()), 3600) * 1000)]
        if woken in ready:
            os.read(woken, 4096)
            while True:
                pid, left = reaped()
                if pid == first:
                    return os.waitstatus_to_exitcode(left)
                if not pid:
                    break
        if lifeline in ready:
            if not os.read(lifeline, 4096):
                return None
            until = time.monotonic() + lease
            ready.remove(lifeline)
        if any(number != woken for number in ready) or time.monotonic() >= until:
            return None


def reaped() -> tuple[int, int]:
    """(pid, status) of a child that has ended, (0, 0) where none has."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def end() -> None:
    """Until nothing is left: as subreaper the guard is the parent of whatever loses its own."""
    begun = time.monotonic()
    while time.monotonic() < begun + LONGEST:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        if time.monotonic() > begun + TIDY:
            for pid in descendants():
                kill(pid)
        time.sleep(0.01)


def descendants() -> list[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):  # it has ended meanwhile
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    asked = [os.getpid()]
    while asked:
        below = children.get(asked.pop(), [])
        found += below
        asked += below
    return found


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def say(status: int, line: str) -> None:
    try:
        os.write(status, line.encode() + b"\n")
    except OSError:  # the worker is gone
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
