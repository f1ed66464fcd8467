"""The Sandbox plug point: described process in, exit report out. `lamina.testing.conformance.sandbox` is its suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.layer.flavour import Flavour

OnOutput = Callable[[Literal["stdout", "stderr"], bytes], None]


class SandboxUnavailable(LaminaError):
    """No rung (or not the forced one) works on this machine; the message names what was tried and the errno of each."""

    code = "sandbox/unavailable"
    default_exit = 69


class SandboxSetupFailed(LaminaError):
    """The sandbox could not be built around the process (our fault or the machine's, not the workload's)."""

    code = "sandbox/setup"
    default_exit = 70


class Bind(msgspec.Struct, frozen=True):
    """Show host path `source` (directory or file) at `target` inside. `below`: only what `source` holds there, found without ever leaving it, whatever
    links a stranger puts in the way meanwhile (rungs with namespaces only)."""

    source: Path
    target: str
    readonly: bool = True
    below: str = ""


class Tmpfs(msgspec.Struct, frozen=True):
    target: str
    size: int = 0  # bytes, 0 = kernel default
    mode: int = 0o1777


class SecretFile(msgspec.Struct, frozen=True):
    """A file on tmpfs (never on disk). The bytes travel over the zygote's socket, never in argv or a helper's environment."""

    target: str
    data: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0

    def __repr__(self) -> str:
        return f"SecretFile({self.target!r})"


class Overlay(msgspec.Struct, frozen=True):
    """The root filesystem: read-only `lowers` (top first; may be empty) and the `upper` that receives the changes."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path


class SubMount(msgspec.Struct, frozen=True):
    """An overlay of its own at `target` (a bind mount of a stage with several layers): read-only, or rw with a throw-away upper.

    `selector` is the path inside of it that is shown.
    """

    overlay: Overlay
    target: str
    selector: str = "/"
    readonly: bool = True


class SandboxSpec(msgspec.Struct, frozen=True):
    """What runs and what it may see. Environment values may hold secrets: no repr, no log."""

    root: Overlay
    argv: tuple[str, ...]
    env: tuple[str, ...]  # NAME=value, complete
    cwd: str = "/"
    user: str = ""  # "", "name", "uid", "name:group", "uid:gid": looked up in the image's own passwd and group
    hostname: str = "buildkitsandbox"
    hosts: tuple[tuple[str, str], ...] = ()
    network: Literal["host", "none"] = "host"
    network_of: str = ""  # with "none": the file of a network namespace to share (sandbox/networks.py); "" makes one of its own
    insecure: bool = False  # all capabilities kept, no seccomp
    binds: tuple[Bind, ...] = ()
    submounts: tuple[SubMount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    secrets: tuple[SecretFile, ...] = ()
    shm_size: int = 64 << 20
    rlimits: tuple[tuple[str, int, int], ...] = ()  # ("nofile", soft, hard)
    memory: int = 0  # bytes for all processes together, where a control group can be made; nowhere an rlimit
    pids: int = 0  # processes and threads together, held as `memory` is
    stdin: bytes = b""
    timeout: float | None = None  # seconds
    stub: str = ""  # a folder that runs with the same value may share: it is made by the first, and holds their mount points

    def __repr__(self) -> str:
        return f"SandboxSpec({self.argv!r})"


class SandboxReport(msgspec.Struct, frozen=True):
    """How the workload ended. `exit_code` follows the shell: 128+n for a signal, 127 not found, 126 not executable."""

    exit_code: int
    signal: int | None = None
    timed_out: bool = False
    oom: bool = False  # it failed, and the kernel killed a process in its control group for want of memory
    max_rss: int = 0  # bytes
    cpu_seconds: float = 0.0
    limited: Literal["", "cgroup", "rlimit"] = ""  # what held the limits that were asked for


class CancelToken(Protocol):
    """Set by Ctrl-C, a failed sibling or a deadline."""

    def cancelled(self) -> bool: ...
    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        """Call `act` (once, from any thread) when cancelled; at once if it is already. Returns how to withdraw it."""
        ...


class Sandbox(Protocol):
    """One rung. Thread-safe: `run` may be called from many worker threads at once."""

    @property
    def name(self) -> str: ...  # "root", "userns", "none"
    @property
    def flavour(self) -> Flavour:
        """The flavour of layers that this rung mounts."""
        ...

    def probe(self) -> tuple[str, ...]:
        """Reasons why it cannot run here; empty = fine."""
        ...

    def run(self, spec: SandboxSpec, on_output: OnOutput, cancel: CancelToken) -> SandboxReport:
        """Run to the end. Raises SandboxSetupFailed; a workload's failure is a report. Nothing is left behind, also after kill -9."""
        ...

    def close(self) -> None: ...
