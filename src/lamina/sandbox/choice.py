"""Which rung a process takes: the strongest that works here, or the one that is forced. Choosing enters the user namespace that it needs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from lamina.sandbox import rungs
from lamina.sandbox.protocols import SandboxUnavailable


class Chosen(NamedTuple):
    rung: str
    tried: tuple[str, ...] = ()  # what was tried in vain, in words


def choose(rung: str | None, uid: int, root: Path | None = None, beside: Path | None = None) -> Chosen:
    """Root stays root; who may not mount enters a namespace with a range of ids, else with his own; where
    that is refused chroot or proot is taken, which both warn. `root`: where the store will lie. `beside`: a folder of containers; those that run on
    from before can be reached from their own user namespace only, so that is entered.

    Where a namespace is entered no thread may exist yet. SandboxUnavailable for a forced rung that is not there: nothing else is taken instead.
    """
    rungs.check_name(rung)
    if beside is not None:
        joined = _join(beside, rung)
        if joined is not None:
            return joined
    if rung is not None:
        _force(rung)
        return Chosen(rung)
    tried: list[str] = []
    if uid == 0:
        why = rungs.why_not("root")
        if why is None and root is not None and rungs.on_overlay(root):
            why = f"{root} lies on a container's own disk, where no overlay can be made (a volume would do)"
        if why is None:
            return Chosen("root")
        tried.append(f"root: {why}")
    if root is None or not rungs.on_overlay(root):
        from lamina.sandbox import userns  # ctypes: not for root

        kind, refused = userns.enter_best()
        if kind == "range" and not rungs.kernel_overlays() and rungs.why_not("userns-fuse") is None:
            return Chosen("userns-fuse", (f"userns: this kernel gives no overlay to a user namespace, {rungs.FUSE} does",))
        if kind is not None:
            return Chosen("userns" if kind == "range" else "userns-single", (*tried, *refused))
        tried += refused
    else:
        tried.append(f"user namespace: {root} lies on a container's own disk, where no overlay can be made (a volume would do)")
    for weak in rungs.WEAK:
        why = rungs.why_not(weak)
        if why is None:
            return Chosen(weak, tuple(tried))
        tried.append(f"{weak}: {why}")
    return Chosen("none", tuple(tried))


def _join(containers: Path, rung: str | None) -> Chosen | None:
    from lamina.sandbox import kept

    for folder, keeper in kept.running_in(containers).items():
        from lamina.sandbox import userns

        kind = userns.join(keeper.pid)
        if kind is None:
            return None
        found = "userns" if kind == "range" else "userns-single"
        with contextlib.suppress(OSError):
            told = (containers.parent / "rung").read_text(errors="replace")
            found = told if told in rungs.RUNGS else found
        if rung not in (None, found):
            raise SandboxUnavailable(
                f"containers that run on from before, like {folder.name[:12]}, are in the sandbox {found}: {rung} cannot be used with them",
                hint=f"use --sandbox={found}, stop them, and start again",
            )
        return Chosen(found)
    return None


def _force(rung: str) -> None:
    """Enter what has to be entered; SandboxUnavailable."""
    why = rungs.why_not(rung)
    if why is None and rung.startswith("userns"):
        from lamina.sandbox import userns

        try:
            userns.enter("single" if rung == "userns-single" else "range")
        except OSError as error:
            why = f"user namespace: {error.strerror}"
    if why is not None:
        raise SandboxUnavailable(f"the sandbox {rung} cannot be used here: {why}", hint="lamina doctor tells what works on this machine")
