"""What works here, found by doing: each rung is tried in a child process of its own. For `lamina doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lamina.sandbox import userns
from lamina.sandbox.rungs import Finding

_TRY = """
import sys
from lamina.sandbox import rungs, userns
rung = sys.argv[1]
if rung != "root":
    userns.enter("single" if rung == "userns-single" else "range")
sandbox = rungs.make(rung)
problems = sandbox.probe()
sandbox.close()
print("; ".join(problems))
"""


def survey() -> tuple[Finding, ...]:
    """Strongest first. Takes some tenths of a second; changes nothing in this process."""
    return (_root(), _range(), _single(), Finding("none", True, "Dockerfiles without RUN build anywhere"))


def _root() -> Finding:
    if os.geteuid() != 0:
        return Finding("root", False, "this is not root", "not needed: a user namespace does as well")
    return _tried("root", "namespaces, overlay with trusted attributes", "run in a container with SYS_ADMIN, or outside of one")


def _range() -> Finding:
    missing = userns.why_no_range() if os.geteuid() else None
    if os.geteuid() == 0:
        return Finding("userns", False, "for ordinary users; this is root")
    if missing:
        return Finding(
            "userns",
            False,
            missing,
            "install uidmap and give the user a range: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME",
        )
    return _tried("userns", "user namespace with a range of ids", _namespace_remedy())


def _single() -> Finding:
    if os.geteuid() == 0:
        return Finding("userns-single", False, "for ordinary users; this is root")
    return _tried(
        "userns-single",
        "user namespace with a single id: the layers carry true owners; a RUN itself sees root only",
        _namespace_remedy(),
    )


def _tried(rung: str, detail: str, remedy: str) -> Finding:
    done = subprocess.run([sys.executable, "-c", _TRY, rung], capture_output=True, text=True, check=False)
    problem = (
        done.stdout.strip() or (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        if done.returncode or done.stdout.strip()
        else ""
    )
    return Finding(rung, False, problem, remedy) if problem else Finding(rung, True, detail)


def _namespace_remedy() -> str:
    for name, bad, remedy in (
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for it",
        ),
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ):
        try:
            if Path("/proc/sys", name).read_text().strip() == bad:
                return remedy
        except OSError:
            continue
    return "inside a container: start it with seccomp=unconfined, or run as root there"
