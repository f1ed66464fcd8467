"""Our side of the containers' zygote: processes that live on after the call that began them, commands inside them, copies in and out.

Beside the Sandbox protocol, on the same mounts, capabilities and filter. Only where namespaces work (rungs root and userns).
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.sandbox.groups import document as document_of_limits
from lamina.sandbox.limits import Limits
from lamina.sandbox.protocols import SandboxSetupFailed, SandboxSpec
from lamina.sandbox.zygote import document

if TYPE_CHECKING:
    from lamina.sandbox.kept import Keep, KeptProcess

_KEEPER = Path(__file__).with_name("standalone") / "keeper.py"
DEFAULT_CAPABILITIES = 0xA80425FB  # docker's


class CannotStart(LaminaError):
    """The process was not begun. `exit_code` as the shell has it: 127 not found, 126 not executable, 125 anything else."""

    code = "sandbox/cannot-start"


class CopyRefused(LaminaError):
    """`status` is the HTTP status that fits: 404 for a path that is not there, 400 for a place that cannot take it."""

    code = "sandbox/copy"
    status = 500


class ProcessSpec(msgspec.Struct, frozen=True):
    """What every process inside has."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    tty: bool = False
    size: tuple[int, int] = (0, 0)  # rows, columns
    capabilities: int = DEFAULT_CAPABILITIES
    privileged: bool = False
    unconfined: bool = False  # no system call filter
    no_new_privileges: bool = False
    rlimits: tuple[tuple[str, int, int], ...] = ()
    limits: Limits = Limits()  # of all processes of a container; held where a control group can be made
    init: bool = False  # a first process that passes signals on and reaps
    control_groups: tuple[str, ...] = ()  # of a command in a container: the container's control groups


class Ended(msgspec.Struct, frozen=True):
    exit_code: int
    signal: int | None = None
    max_rss: int = 0
    cpu: float = 0.0
    oom: bool = False


class Process:
    """A started process. `wait` is called once, by one thread."""

    left = False  # whether it goes on without us (kept.py)

    def __init__(self, connection: socket.socket, pid: int, terminal: int | None, rest: bytes, groups: tuple[str, ...]) -> None:
        self._connection = connection
        self._rest = rest
        self.pid = pid  # in our pid namespace
        self.groups = groups  # control groups, where limits were asked for
        self.terminal = terminal  # our end of its terminal; the caller closes it

    def signal(self, number: int) -> None:
        try:
            self._connection.send(b"S" + bytes([number]))
        except OSError:
            pass

    def wait(self) -> Ended:
        """Blocks until it has ended. When the zygote was killed its processes were, too: 137."""
        line = self._rest or _line(self._connection)[0]
        self._connection.close()
        try:
            return typed.json(line, type=Ended)
        except msgspec.DecodeError:
            return Ended(137, 9)


_Made = TypeVar("_Made", bound=Process)


class Containers:
    """Thread-safe. The zygote starts with the first process and ends with `close` or with us; everything in it ends then."""

    def __init__(self, *, userxattr: bool) -> None:
        self._userxattr = userxattr
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._zygote: subprocess.Popen[bytes] | None = None

    def start(
        self, spec: SandboxSpec, process: ProcessSpec, streams: tuple[int, int, int], *, readonly: bool = False, resolv_conf: str = ""
    ) -> Process:
        """The first process of a container. `streams` (stdin, stdout, stderr) stay the caller's. CannotStart, SandboxSetupFailed."""
        body = document(spec, self._userxattr) | _process(process)
        return self._begin(body | {"kind": "start", "readonly": readonly, "resolv_conf": resolv_conf}, streams)

    def start_kept(
        self,
        spec: SandboxSpec,
        process: ProcessSpec,
        stdin: int,
        keep: Keep,
        held: Mapping[str, int],
        note: str,
        *,
        readonly: bool = False,
        resolv_conf: str = "",
    ) -> KeptProcess:
        """As `start`, for one that outlives us. What it writes goes into the log in `keep.folder`; descriptors of `held` are kept for the next
        engine, and `note`. CannotStart, SandboxSetupFailed."""
        from lamina.sandbox.kept import KeptProcess

        body = document(spec, self._userxattr) | _process(process)
        body |= {"kind": "start", "readonly": readonly, "resolv_conf": resolv_conf, "kept": keep.document()}
        with open(os.devnull, "r+b") as null:
            connection = self._send(body, (stdin, null.fileno(), null.fileno()))

        early = KeptProcess(connection, 0, None, b"", ())
        for name, descriptor in held.items():
            early.hold(name, descriptor)
        early.note(note)
        return self._begun(connection, KeptProcess)

    def exec(self, pid: int, process: ProcessSpec, streams: tuple[int, int, int]) -> Process:
        """A process in the namespaces of the process `pid`, which is a container's first."""
        return self._begin(_process(process) | {"kind": "exec", "pid": pid}, streams)

    def copy(
        self,
        spec: SandboxSpec,
        pid: int,
        op: str,
        path: str,
        *,
        source: int = -1,
        sink: int = -1,
        keep_kind: bool = False,
        on_stat: Callable[[dict[str, Any]], None] = lambda found: None,
    ) -> None:
        """stat, get (a tar to `sink`) or put (a tar from `source`) in the root of a container that runs (`pid`) or does not (0).

        Descriptors stay the caller's. `on_stat` is told before the first byte. CopyRefused.
        """
        body = document(spec, self._userxattr) | {"kind": "archive", "op": op, "path": path, "pid": pid, "keep_kind": keep_kind}
        with open(os.devnull, "r+b") as null:
            connection = self._send(body, (source if source >= 0 else null.fileno(), sink if sink >= 0 else null.fileno(), null.fileno()))
        with connection:
            rest = b""
            while True:
                line, rest = _line(connection, rest)
                if not line:
                    raise SandboxSetupFailed("the copy's helper ended early")
                found: dict[str, Any] = json.loads(line)
                if "failed" in found:
                    error = CopyRefused(found["failed"]["message"])
                    error.status = found["failed"]["code"]
                    raise error
                if "stat" in found:
                    on_stat(found["stat"])
                    if op == "stat":
                        return
                if "done" in found:
                    return

    def close(self) -> None:
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
            if self._zygote is not None:
                self._zygote.wait()
                self._zygote = None

    def _begin(self, body: dict[str, Any], streams: tuple[int, int, int]) -> Process:
        return self._begun(self._send(body, streams), Process)

    def _begun(self, connection: socket.socket, made: Callable[[socket.socket, int, int | None, bytes, tuple[str, ...]], _Made]) -> _Made:
        try:
            line, descriptors, rest = _line_and_descriptors(connection)
            if not line:
                raise SandboxSetupFailed("the container's helper was killed", hint="the machine may be out of memory")
            found: dict[str, Any] = json.loads(line)
            if "failed" in found:
                raise CannotStart(found["failed"]["message"], exit_code=found["failed"]["code"])
        except BaseException:
            connection.close()
            raise
        return made(connection, found["started"], descriptors[0] if descriptors else None, rest, tuple(found["groups"]))

    def _send(self, body: dict[str, Any], streams: tuple[int, int, int]) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                if self._control is None:
                    self._begin_zygote()
                assert self._control is not None
                socket.send_fds(self._control, [b"R"], [*streams, theirs.fileno()])
            data = json.dumps(body).encode()
            ours.sendall(struct.pack("!I", len(data)) + data)
        except OSError as error:
            ours.close()
            raise SandboxSetupFailed(f"the containers' helper process is gone: {error.strerror}") from error
        finally:
            theirs.close()
        return ours

    def _begin_zygote(self) -> None:
        ours, theirs = socket.socketpair()
        self._zygote = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_KEEPER), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,  # a terminal that is closed ends the engine, not what the engine keeps
        )
        theirs.close()
        self._control = ours


def _process(process: ProcessSpec) -> dict[str, Any]:
    return {
        "argv": list(process.argv),
        "env": list(process.env),
        "cwd": process.cwd,
        "user": process.user,
        "groups": list(process.groups),
        "tty": process.tty,
        "size": list(process.size),
        "capabilities": process.capabilities,
        "insecure": process.privileged,
        "unconfined": process.unconfined,
        "no_new_privileges": process.no_new_privileges,
        "rlimits": [list(limit) for limit in process.rlimits],
        "limits": document_of_limits(process.limits),
        "init": process.init,
        "control_groups": list(process.control_groups),
    }


def _line(connection: socket.socket, rest: bytes = b"") -> tuple[bytes, bytes]:
    """(a line, what came behind it); an empty line at the end."""
    while b"\n" not in rest:
        try:
            data = connection.recv(1 << 16)
        except OSError:
            return b"", b""
        if not data:
            return b"", b""
        rest += data
    line, _, rest = rest.partition(b"\n")
    return line, rest


def _line_and_descriptors(connection: socket.socket) -> tuple[bytes, list[int], bytes]:
    try:
        data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", [], b""
    descriptors: list[int] = []
    for level, kind, found in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(found[: len(found) - len(found) % numbers.itemsize])
            descriptors += numbers
    line, rest = _line(connection, data) if b"\n" not in data else (data.partition(b"\n")[0], data.partition(b"\n")[2])
    return line, descriptors, rest
