"""A disk that fails: every call of a process that changes files is asked about, whoever makes it, SQLite and C code included.

The process gets a seccomp filter whose listener is here. Each such call below a folder is counted; the one that a `Fault` names fails, is
carried out by half, or is the process's last. Children (the sandbox, a RUN) are asked about too and left alone. Needs root, or no_new_privs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_ALLOW, _NOTIFY, _NEW_LISTENER = 0x7FFF0000, 0x7FC00000, 8
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_PIDFD_GETFD, _NO_NEW_PRIVS = 438, 38
_CWD = 0xFFFFFF9C

# name -> (x86_64, aarch64, what its arguments are): "fd", the position of a (folder, path) pair, or of a path
CALLS: dict[str, tuple[int | None, int | None, str]] = {
    "write": (1, 64, "fd"), "pwrite64": (18, 68, "fd"), "writev": (20, 66, "fd"), "pwritev": (296, 70, "fd"), "sendfile": (40, 71, "fd"),
    "fsync": (74, 82, "fd"), "fdatasync": (75, 83, "fd"), "ftruncate": (77, 46, "fd"), "fallocate": (285, 47, "fd"), "fchmod": (91, 52, "fd"),
    "fchown": (93, 55, "fd"), "fsetxattr": (190, 7, "fd"), "copy_file_range": (326, 285, "third"),
    "rename": (82, None, "path"), "mkdir": (83, None, "path"), "rmdir": (84, None, "path"), "link": (86, None, "path"), "unlink": (87, None, "path"),
    "symlink": (88, None, "second"), "chmod": (90, None, "path"), "chown": (92, None, "path"), "truncate": (76, 45, "path"),
    "openat": (257, 56, "at"), "mkdirat": (258, 34, "at"), "mknodat": (259, 33, "at"), "fchownat": (260, 54, "at"), "unlinkat": (263, 35, "at"),
    "renameat": (264, 38, "at"), "linkat": (265, 37, "at"), "symlinkat": (266, 36, "second-at"), "fchmodat": (268, 53, "at"),
    "utimensat": (280, 88, "at"), "renameat2": (316, 276, "at"),
}  # fmt: skip
_MAKING = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR


class Fault(msgspec.Struct, frozen=True):
    """What happens at the `at`-th call (from 1): `error`; with `half`, half of a write first (then success, or `error` from the next call on if it
    `stays`). `error` 0 without `half`: SIGKILL. `stays`: every later call fails too, as on a disk that stays full."""

    at: int
    error: int = 0
    half: bool = False
    stays: bool = False

    def __str__(self) -> str:
        what = errno.errorcode.get(self.error, "kill")
        return f"{what}{' after half' if self.half else ''} at call {self.at}{' and ever after' if self.stays else ''}"


class Ended(msgspec.Struct, frozen=True):
    """`code`: as a shell has it, negative for a signal. `calls` that were counted. `hit`: which call the fault met. `left`: processes stayed behind."""

    code: int
    calls: int
    hit: str
    left: bool
    out: str
    err: str


def why_not() -> str | None:
    """The reason why there can be no such layer here, or None."""
    if platform.machine() not in _ARCH:
        return f"no numbers of system calls for {platform.machine()}"
    return None if os.geteuid() == 0 else "the filter's listener is installed as root"


def lamina(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, folder: Path, *,
    fault: Fault | None = None, kill_after: float | None = None, watched: bool = True, patience: float = 120,
) -> Ended:  # fmt: skip
    """Run the command line in a forked child, whose files are kept below `folder`. `kill_after`: SIGKILL so many seconds later."""
    ours, theirs = socket.socketpair()
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    child = os.fork()
    if child == 0:
        _child(arguments, environment, cwd, theirs if watched else None, out, err)
    theirs.close()
    listener = -1
    try:
        if watched:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            if not descriptors:
                os.waitpid(child, 0)
                raise RuntimeError(f"no listener: {_text(err)}")
            (listener,) = descriptors
        watch = _Watch(child, listener, os.fsencode(folder), fault)
        code, left = watch.until_the_end(kill_after, patience)
        return Ended(code, watch.calls, watch.hit, left, _text(out), _text(err))
    finally:
        ours.close()
        for descriptor in (out, err, listener):
            if descriptor >= 0:
                os.close(descriptor)


def _child(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, report: socket.socket | None, out: int, err: int
) -> None:  # fmt: skip
    code = 70
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115  # until _exit
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115  # until _exit
        os.environ.clear()
        os.environ.update({"PATH": os.defpath, "HOME": "/", **environment})
        os.chdir(cwd)
        sys.dont_write_bytecode = True
        from lamina.cli.main import run

        if report is not None:
            listener = _listen()
            socket.send_fds(report, [b"x"], [listener])
            os.close(listener)
            report.close()
        code = run(list(arguments))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 1 << 20, 0).decode("utf-8", "replace")


def _listen() -> int:
    """Put the filter on this process, its threads to come and its children; its listener."""
    machine = platform.machine()
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCH[machine]), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, 0)]
    for name, row in CALLS.items():
        number = row[0] if platform.machine() == "x86_64" else row[1]
        if number is None:
            continue
        if name == "openat":  # only what may change something
            program += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, 32),
                (_ANY_BIT, 0, 1, _MAKING),
                (_RETURN, 0, 0, _NOTIFY),
                (_RETURN, 0, 0, _ALLOW),
            ]
        else:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    whole = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    found = libc.syscall(ctypes.c_long(_SECCOMP[machine]), ctypes.c_long(1), ctypes.c_long(_NEW_LISTENER), whole)
    if found < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(found)


class _Watch:
    def __init__(self, child: int, listener: int, folder: bytes, fault: Fault | None) -> None:
        self._child, self._listener, self._folder, self._fault = child, listener, folder, fault
        self._pidfd = os.pidfd_open(child)
        self._mine: dict[int, bool] = {}
        column = 0 if platform.machine() == "x86_64" else 1
        self._names = {row[column]: name for name, row in CALLS.items() if row[column] is not None}
        self.calls = 0
        self.hit = ""

    def until_the_end(self, kill_after: float | None, patience: float) -> tuple[int, bool]:
        """(code, whether others of it stayed)"""
        began = time.monotonic()
        code: int | None = None
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if self._listener >= 0:
            poll.register(self._listener, select.POLLIN)
        try:
            while True:
                passed = time.monotonic() - began
                if passed > patience:
                    if code is None:
                        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                        os.waitpid(self._child, 0)
                        raise TimeoutError(f"no end after {patience} s")
                    return code, True
                wait = patience - passed
                if kill_after is not None and code is None:
                    if passed >= kill_after:
                        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                        kill_after = None
                        continue
                    wait = min(wait, kill_after - passed)
                for descriptor, event in poll.poll(wait * 1000):
                    if descriptor == self._pidfd:
                        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
                        poll.unregister(self._pidfd)
                        if self._listener < 0:
                            return code, False
                        patience = passed + 120  # what is left has so long to end
                    elif event & select.POLLIN:
                        self._answer()
                    elif event & (select.POLLHUP | select.POLLERR):
                        poll.unregister(self._listener)  # nobody is left who could ask
                        if code is None:
                            code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
                        return code, False
        finally:
            os.close(self._pidfd)

    def _answer(self) -> None:
        request = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, request, True)
        except OSError:
            return  # who asked is gone
        number, pid, _, call, _, _, *arguments = struct.unpack("=QIIiIQ6Q", request)
        value = error = 0
        flags = _CONTINUE
        try:
            if self._is_main(pid):
                answer = self._decide(self._names[call], arguments)
                if answer is not None:
                    (value, error), flags = answer, 0
        except OSError:
            pass  # killed meanwhile
        try:
            fcntl.ioctl(self._listener, _SEND, struct.pack("=QqiI", number, value, -error, flags))
        except OSError:
            pass

    def _is_main(self, thread: int) -> bool:
        found = self._mine.get(thread)
        if found is None:
            with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as status:
                group = next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))
            found = self._mine[thread] = group == self._child
        return found

    def _decide(self, name: str, arguments: list[int]) -> tuple[int, int] | None:
        """(result, errno), None for the kernel."""
        target = self._target(name, arguments)
        if not target.startswith(self._folder):
            return None
        self.calls += 1
        fault = self._fault
        if fault is None or self.calls < fault.at or (self.calls > fault.at and not (fault.stays and fault.error)):
            return None
        if self.calls == fault.at:
            self.hit = f"{name} {os.fsdecode(target[len(self._folder) :])}"
            if not fault.error and not fault.half:
                os.kill(self._child, signal.SIGKILL)
                return None
            if fault.half and name in ("write", "pwrite64") and arguments[2] > 1:
                return self._half(name, arguments), 0
            if fault.half and not fault.error:
                return None
        return 0, fault.error

    def _half(self, name: str, arguments: list[int]) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        held = libc.syscall(
            ctypes.c_long(_PIDFD_GETFD), ctypes.c_long(self._pidfd), ctypes.c_long(arguments[0] & 0xFFFFFFFF), ctypes.c_long(0)
        )
        if held < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        try:
            with open(f"/proc/{self._child}/mem", "rb", buffering=0) as memory:
                memory.seek(arguments[1])
                data = memory.read(arguments[2] // 2)
            return os.write(held, data) if name == "write" else os.pwrite(held, data, arguments[3])
        finally:
            os.close(held)

    def _target(self, name: str, arguments: list[int]) -> bytes:
        shape = CALLS[name][2]
        if shape in ("fd", "third"):
            return self._place(arguments[2 if shape == "third" else 0])
        if shape in ("path", "second"):
            return self._joined(_CWD, self._string(arguments[1 if shape == "second" else 0]))
        folder, path = arguments[1:3] if shape == "second-at" else arguments[:2]
        return self._joined(folder, self._string(path)) if path else self._place(folder)

    def _joined(self, folder: int, path: bytes) -> bytes:
        if path.startswith(b"/proc/self/fd/") and path[14:].isdigit():
            return self._place(int(path[14:]))
        return path if path.startswith(b"/") else self._place(folder) + b"/" + path

    def _place(self, descriptor: int) -> bytes:
        descriptor &= 0xFFFFFFFF
        return os.readlink(b"/proc/%d/%s" % (self._child, b"cwd" if descriptor == _CWD else b"fd/%d" % descriptor))

    def _string(self, address: int) -> bytes:
        with open(f"/proc/{self._child}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            found = memory.read(4096 - address % 4096)
            if b"\0" not in found:
                found += memory.read(4096)
        return found.partition(b"\0")[0]
