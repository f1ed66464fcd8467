"""A user namespace for the whole process: its root is us, and a range of ids is ours where /etc/subuid says so."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from lamina.sandbox.capabilities import may
from lamina.sandbox.protocols import SandboxUnavailable

_NEWUSER = 0x10000000
_SETGID, _SETUID, _SETFCAP = 6, 7, 31
Kind = Literal["range", "single"]


def enter(kind: Kind) -> None:
    """Enter a namespace of this kind. The process must have one thread. SandboxUnavailable tells what the kernel or the machine refuses.

    range: 0 is us, 1… are the ranges of /etc/subuid and /etc/subgid, mapped by newuidmap and newgidmap; root (that may not mount, in a
    container) keeps all its ids. single: 0 is us, nothing else.
    """
    uid, gid = os.geteuid(), os.getegid()
    if kind == "range":
        _enter_range(uid, gid)
        return
    _unshare()
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def enter_best() -> tuple[Kind | None, tuple[str, ...]]:
    """(what was entered, what was tried in vain): a range where one is, else the single id."""
    tried: list[str] = []
    missing = why_no_range()
    if missing is None:
        try:
            enter("range")
            return "range", ()
        except SandboxUnavailable as error:
            tried.append(error.message)
    else:
        tried.append(f"user namespace with a range: {missing}")
    try:
        enter("single")
        return "single", tuple(tried)
    except (SandboxUnavailable, OSError) as error:
        tried.append(f"user namespace with a single id: {error}")
        return None, tuple(tried)


def why_no_range() -> str | None:
    """What is missing for a range of ids, or None."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return None if may(_SETGID, _SETUID, _SETFCAP) else "this root may not map ids (capabilities are missing)"
    for tool in ("newuidmap", "newgidmap"):
        if not shutil.which(tool):
            return f"{tool} is not installed (Debian: uidmap)"
    if not _ranges("/etc/subuid", uid):
        return f"/etc/subuid has no range for uid {uid}"
    if not _ranges("/etc/subgid", gid, uid):
        return f"/etc/subgid has no range for uid {uid}"
    return None


def _enter_range(uid: int, gid: int) -> None:
    missing = why_no_range()
    if missing:
        raise SandboxUnavailable(
            f"user namespace with a range: {missing}", hint="use --sandbox=userns-single, or ask for a range: usermod --add-subuids"
        )
    maps = [
        ["newuidmap", str(os.getpid()), *_map(uid, _ranges("/etc/subuid", uid))],
        ["newgidmap", str(os.getpid()), *_map(gid, _ranges("/etc/subgid", gid, uid))],
    ]
    # The helpers must run outside of the namespace that they map: a child waits until we are in.
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready_write)
        os.close(done_read)
        os.read(ready_read, 1)
        message = _map_as_root(os.getppid()) if uid == 0 else b""
        for command in maps if uid else ():
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode:
                message = b" ".join([command[0].encode(), done.stderr.strip() or b"failed"])
                break
        os.write(done_write, message or b"ok")
        os._exit(0)
    os.close(ready_read)
    os.close(done_write)
    try:
        _unshare()
    except BaseException:
        os.close(ready_write)
        os.close(done_read)
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise
    os.write(ready_write, b"x")
    os.close(ready_write)
    answer = os.read(done_read, 4096)
    os.close(done_read)
    os.waitpid(child, 0)
    if answer != b"ok":
        raise SandboxUnavailable(f"user namespace with a range: {answer.decode(errors='replace')}")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def join(pid: int) -> Kind | None:
    """Enter the user namespace of a process that we began; None when it is in ours. The process must have one thread. SandboxUnavailable."""
    try:
        if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
            return None
        descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(descriptor, _NEWUSER):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise SandboxUnavailable(
            f"process {pid} keeps containers in a user namespace that cannot be entered: {error.strerror}",
            hint="start the engine as the user, and where, the one before it was started; or end that process, and its container with it",
        ) from error
    rows = Path("/proc/self/uid_map").read_text().splitlines()
    return "single" if len(rows) == 1 and rows[0].split()[2] == "1" else "range"


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWUSER):
        number = ctypes.get_errno()
        hints = {
            1: "user namespaces are switched off here (sysctl, AppArmor or a container's seccomp profile)",
            22: "the process has threads already",
        }
        raise SandboxUnavailable(f"user namespace: {os.strerror(number)}", hint=hints.get(number))


def _map_as_root(process: int) -> bytes:
    """Give a process all ids that we have, each as itself. Root may, without newuidmap. What went wrong, or nothing."""
    for name in ("uid_map", "gid_map"):
        try:
            lines = [line.split() for line in Path("/proc/self", name).read_text().splitlines()]
            Path(f"/proc/{process}", name).write_text("".join(f"{inside} {inside} {count}\n" for inside, _, count in lines))
        except OSError as error:
            return f"{name}: {error.strerror}".encode()
    return b""


def _map(own: int, ranges: list[tuple[int, int]]) -> list[str]:
    """newuidmap's arguments: 0 is us, then the ranges one after the other."""
    found = ["0", str(own), "1"]
    inside = 1
    for start, count in ranges:
        found += [str(inside), str(start), str(count)]
        inside += count
    return found


def _ranges(file: str, own: int, alternative: int | None = None) -> list[tuple[int, int]]:
    """Ranges that belong to a uid or its login name."""
    import pwd

    owners = {str(own), str(alternative if alternative is not None else own)}
    try:
        owners.add(pwd.getpwuid(alternative if alternative is not None else own).pw_name)
    except KeyError:
        pass
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        owner, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if owner in owners and start.isdecimal() and count.strip().isdecimal() and int(count):
            found.append((int(start), int(count)))
    return found
