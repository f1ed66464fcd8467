"""The rungs: ways to run a RUN, strongest first, chosen by doing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.layer.flavour import Flavour, IdMap
from lamina.sandbox.capabilities import may
from lamina.sandbox.protocols import (
    CancelToken,
    OnOutput,
    Overlay,
    Sandbox,
    SandboxReport,
    SandboxSetupFailed,
    SandboxSpec,
    SandboxUnavailable,
)

if TYPE_CHECKING:
    from lamina.sandbox.limits import Limits
    from lamina.sandbox.zygoteprocess import ZygoteProcess

RUNGS = ("root", "userns", "userns-fuse", "userns-single", "chroot", "proot", "runc", "crun", "none")
FUSE = "fuse-overlayfs"
RUNTIMES = ("runc", "crun")  # only when asked for
WEAK = ("chroot", "proot")  # a RUN sees the machine's processes and network

_CHOWN, _DAC_OVERRIDE, _FOWNER, _SYS_CHROOT, _SYS_ADMIN = 0, 1, 3, 18, 21  # capabilities


class NamespaceSandbox:
    """Own namespaces over an overlay. `root`: as root with trusted attributes; `userns`: the process is root of a user namespace."""

    def __init__(
        self,
        name: str,
        flavour: Flavour,
        limits: Limits | None = None,
        oci: str | None = None,
        process: ZygoteProcess | None = None,
        fuse: str | None = None,
    ) -> None:
        self._name = name
        self._flavour = flavour
        from lamina.sandbox.zygote import Zygote  # only where something runs

        self._zygote = Zygote(
            userxattr=flavour.whiteouts == "user", single=flavour.ids.kind == "single", limits=limits, oci=oci, fuse=fuse, process=process
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def flavour(self) -> Flavour:
        return self._flavour

    def probe(self) -> tuple[str, ...]:
        return probe(self)

    def run(self, spec: SandboxSpec, on_output: OnOutput, cancel: CancelToken) -> SandboxReport:
        return self._zygote.run(spec, on_output, cancel)

    def close(self) -> None:
        self._zygote.close()


def probe(sandbox: Sandbox, place: Path | None = None) -> tuple[str, ...]:
    """Reasons why a sandbox cannot run anything here: everything up to exec is done for a program that is not there. `place`: a folder of
    the file system that a store would lie on (else the temporary one)."""
    import tempfile

    if sys.platform != "linux":
        return ("namespaces need Linux",)
    with tempfile.TemporaryDirectory(prefix="lamina-probe-", dir=place) as text:
        folder = Path(text)
        lower, upper, work = folder / "below" / "diff", folder / "above" / "diff", folder / "work"
        for part in (lower / "d" / "inner", upper, work):
            part.mkdir(parents=True)
        spec = SandboxSpec(Overlay((lower,), upper, work), ("/lamina-probe",), ())
        try:
            report = sandbox.run(spec, lambda stream, data: None, _Never())
        except SandboxSetupFailed as error:
            return (error.message,)
    return () if report.exit_code == 127 else (f"the probe ended with {report.exit_code}",)


class NoSandbox:
    """A Dockerfile without RUN builds anywhere; a RUN is refused with what was tried."""

    def __init__(self, flavour: Flavour, tried: tuple[str, ...]) -> None:
        self._flavour = flavour
        self._tried = tried

    @property
    def name(self) -> str:
        return "none"

    @property
    def flavour(self) -> Flavour:
        return self._flavour

    def probe(self) -> tuple[str, ...]:
        return ()

    def run(self, spec: SandboxSpec, on_output: OnOutput, cancel: CancelToken) -> SandboxReport:
        raise SandboxUnavailable(
            "RUN cannot be executed here: " + ("; ".join(self._tried) or "the rung `none` was asked for"),
            hint="lamina doctor tells what is missing; instructions other than RUN work",
        )

    def close(self) -> None:
        pass


class _Never:
    def cancelled(self) -> bool:
        return False

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Finding(msgspec.Struct, frozen=True):
    """What `lamina doctor` says of a rung."""

    rung: str
    works: bool
    detail: str
    remedy: str = ""


def flavour_of(rung: str) -> Flavour:
    match rung:
        case "root" | "runc" | "crun":
            return Flavour("trusted")
        case "userns" | "userns-fuse":
            return Flavour("user")
        case "userns-single":
            return Flavour("user", IdMap("single"))
        case "chroot":
            return Flavour("plain")
        case "proot":
            return Flavour("plain", IdMap("single"))
        case _:
            if os.geteuid() != 0 or not may(_CHOWN, _FOWNER, _DAC_OVERRIDE):
                return Flavour("plain", IdMap("single"))
            return Flavour("trusted" if may(_SYS_ADMIN) else "plain")


def why_not(rung: str) -> str | None:
    """What is known, without trying, to forbid a rung to this process; None: it may work. Namespaces are tried by entering them."""
    uid = os.geteuid()
    if sys.platform != "linux":
        return None if rung == "none" else "it needs Linux"
    if rung in RUNTIMES:
        import shutil

        if shutil.which(rung) is None:
            return f"{rung} is not installed"
    if rung == "root" or rung in RUNTIMES:
        if uid != 0:
            return "it needs uid 0"
        return None if may(_SYS_ADMIN) else "this root may not mount (CAP_SYS_ADMIN is missing, as in a default container)"
    if rung == "chroot":
        if uid != 0:
            return "it needs uid 0"
        return None if may(_SYS_CHROOT, _CHOWN, _FOWNER, _DAC_OVERRIDE) else "this root may not chroot or chown (capabilities are missing)"
    if rung == "userns-fuse":
        return _why_no_fuse()
    if rung == "proot":
        import shutil

        return None if shutil.which("proot") else "proot is not installed"
    return None


def _why_no_fuse() -> str | None:
    import shutil

    if shutil.which(FUSE) is None:
        return f"{FUSE} is not installed"
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse is not there, or not for this user"


def kernel_overlays() -> bool:
    """Whether the kernel is of an age to give overlays to user namespaces (5.11). What else refuses them is found by doing."""
    try:
        major, minor = (int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    except ValueError:
        return True
    return (major, minor) >= (5, 11)


def on_overlay(place: Path) -> bool:
    """Whether files of `place` (it may not exist yet) would lie on an overlay, which cannot hold the upper of another: a container's own disk."""
    text = os.path.realpath(place)
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                _, point, found, _ = line.split(" ", 3)
                if len(point) >= len(best) and (text == point or text.startswith(point.rstrip("/") + "/")):
                    best, kind = point, found
    except (OSError, ValueError):
        return False
    return kind in ("overlay", "fuse-overlayfs")


def warning(rung: str) -> str | None:
    """What is said once a build of a rung that isolates less."""
    if rung not in WEAK:
        return None
    more = "" if rung == "chroot" else "; owners that a RUN sets are lost"
    return (
        f"RUN is not isolated here (rung {rung}): it sees this machine's processes and network{more}. lamina doctor tells what would help"
    )


def check_name(rung: str | None) -> None:
    """SandboxUnavailable for a rung that does not exist."""
    if rung is not None and rung not in RUNGS:
        near = nearest(rung, RUNGS)
        raise SandboxUnavailable(
            f"there is no sandbox rung {rung!r}", hint=f"did you mean {near}?" if near else f"rungs: {', '.join(RUNGS)}"
        )


def make(
    rung: str, tried: tuple[str, ...] = (), folder: Path | None = None, limits: Limits | None = None, process: ZygoteProcess | None = None
) -> Sandbox:
    """The sandbox of a rung, not probed. `folder`: where rungs that cannot mount keep root file systems. `limits`: of each run.
    `process`: a zygote that was started for it."""
    check_name(rung)
    if rung in WEAK:
        from lamina.sandbox.plain import PlainSandbox

        return PlainSandbox(rung, flavour_of(rung), folder, limits, process)
    if rung == "none":
        return NoSandbox(flavour_of(rung), tried)
    if rung in RUNTIMES:
        import shutil

        return NamespaceSandbox(rung, flavour_of(rung), limits, shutil.which(rung) or rung, process)
    if rung == "userns-fuse":
        import shutil

        return NamespaceSandbox(rung, flavour_of(rung), limits, process=process, fuse=shutil.which(FUSE) or FUSE)
    return NamespaceSandbox(rung, flavour_of(rung), limits, process=process)
