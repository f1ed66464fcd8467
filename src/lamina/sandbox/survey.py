"""What works here, found by doing: each rung is tried in a child process of its own. For `lamina doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lamina.sandbox import rungs, userns
from lamina.sandbox.rungs import Finding

_TRY = """
import pathlib, sys
from lamina.sandbox import rungs, userns
rung, place = sys.argv[1:]
if rung.startswith("userns"):
    userns.enter("single" if rung == "userns-single" else "range")
sandbox = rungs.make(rung, (), pathlib.Path(place, "lamina-trees"))
problems = rungs.probe(sandbox, pathlib.Path(place))
sandbox.close()
print("; ".join(problems))
"""
_DETAILS = {
    "root": "namespaces, overlay with trusted attributes",
    "userns": "user namespace with a range of ids",
    "userns-fuse": "user namespace with a range of ids, overlays by fuse-overlayfs: slower, for kernels that give none",
    "userns-single": "user namespace with a single id: the layers carry true owners; a RUN itself sees root only",
    "chroot": "no isolation: a RUN sees this machine's processes and network; /proc is missing",
    "proot": "no isolation, slow; owners that a RUN sets are lost",
}
_DETAILS |= {name: "an OCI runtime, only with --sandbox=" + name for name in rungs.RUNTIMES}
_INSIDE = "run in a container with SYS_ADMIN, or outside of one"


def survey(root: Path | None = None) -> tuple[Finding, ...]:
    """Strongest first; RUN uses the first that works. `root`: where the store lies, or will. Takes some tenths of a second; changes nothing
    in this process."""
    place = root
    while place is not None and not place.is_dir():
        place = place.parent if place != place.parent else None
    if place is None or not os.access(place, os.W_OK):
        place = Path(tempfile.gettempdir())
    return (
        *(_finding(rung, place) for rung in rungs.RUNGS if rung != "none"),
        Finding("none", True, "Dockerfiles without RUN build anywhere"),
    )


def _finding(rung: str, place: Path) -> Finding:
    why = rungs.why_not(rung)
    remedy = {"root": _INSIDE, "chroot": "not needed where a user namespace works" if os.geteuid() else _INSIDE}.get(rung, "")
    if rung in rungs.RUNTIMES:
        remedy = f"install {rung} to use --sandbox={rung}; nothing else needs it"
    if rung == "proot":
        remedy = "install proot (Debian: proot), where nothing stronger works"
    if rung == "root" and os.geteuid():
        remedy = "not needed: a user namespace does as well"
    if rung == "userns-fuse":
        why = why or userns.why_no_range()
        remedy = "install fuse-overlayfs, where the kernel gives no overlay to a user namespace; /dev/fuse must be open to the user"
    if rung == "userns":
        why = userns.why_no_range()
        remedy = "install uidmap and give the user a range: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME"
    if why is None and rung.startswith("userns") and os.geteuid() == 0 and rungs.why_not("root") is None:
        return Finding(rung, False, "not needed: this is root")
    if why is not None:
        return Finding(rung, False, why, remedy)
    if rung not in rungs.WEAK and rungs.on_overlay(place):
        return Finding(
            rung, False, f"{place} lies on a container's own disk, where no overlay can be made", "put the store on a volume: --root"
        )
    return _tried(rung, _DETAILS[rung], _namespace_remedy() if rung in ("userns", "userns-single") else remedy, place)


def _tried(rung: str, detail: str, remedy: str, place: Path) -> Finding:
    done = subprocess.run([sys.executable, "-c", _TRY, rung, str(place)], capture_output=True, text=True, check=False)
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
