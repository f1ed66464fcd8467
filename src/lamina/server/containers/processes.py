"""Which processes are in a container, and what they are doing: from /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]


def pids(first: int) -> list[int]:
    """All processes in the pid namespace of `first`."""
    wanted = _namespace(first)
    if wanted is None:
        return []
    found = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return sorted(pid for pid in found if _namespace(pid) == wanted)


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def table(first: int) -> list[list[str]]:
    """Rows of `docker top`, as ps -ef has them."""
    rows = []
    boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for pid in pids(first):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
            uid = os.stat(f"/proc/{pid}").st_uid
        except (OSError, IndexError):
            continue
        spent = (int(fields[11]) + int(fields[12])) // _TICKS
        began = time.strftime("%H:%M", time.localtime(boot + int(fields[19]) / _TICKS))
        clock = f"{spent // 3600:02}:{spent // 60 % 60:02}:{spent % 60:02}"
        rows.append([_user(uid), str(pid), fields[1], "0", began, "?", clock, command])
    return rows


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def usage(first: int) -> tuple[int, int, int]:
    """(nanoseconds of processor time, resident bytes, number of processes)."""
    spent = resident = count = 0
    for pid in pids(first):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        spent += (int(fields[11]) + int(fields[12])) * 10**9 // _TICKS
        resident += int(fields[21]) * _PAGE
        count += 1
    return spent, resident, count
