"""Our side of the zygote (zygoteprocess.py starts it): sends runs, pumps output, asks for signals."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from lamina.sandbox.protocols import CancelToken, OnOutput, Overlay, SandboxReport, SandboxSetupFailed, SandboxSpec
from lamina.sandbox.zygoteprocess import ZygoteProcess

if TYPE_CHECKING:
    from lamina.sandbox.limits import Limits

Stream = Literal["stdout", "stderr"]


_PIECE = 1 << 16
_PROC_REFUSED = "mounts: no new /proc is given here"  # said by standalone/first.py


class _ProcRefused(SandboxSetupFailed):
    pass


class _Ended(Exception):
    """The helper is gone in the middle of it; the system's words for it."""


class Plain(NamedTuple):
    """A root that is a plain folder; `proot` is that program's path, None for chroot."""

    root: Path
    proot: str | None = None


class Zygote:
    """Thread-safe. The process starts with the first run, unless one is given, and ends with `close`."""

    def __init__(
        self,
        *,
        userxattr: bool,
        single: bool = False,
        limits: Limits | None = None,
        oci: str | None = None,
        fuse: str | None = None,
        process: ZygoteProcess | None = None,
    ) -> None:
        """`process` is ended by `close`. `fuse`: the program that makes overlays in the kernel's place."""
        self._fuse = fuse
        self._oci = oci
        self._limits = limits
        self._userxattr = userxattr
        self._single = single
        self._shared_pids = False
        self._lock = threading.Lock()
        self._process = process

    def run(self, spec: SandboxSpec, on_output: OnOutput, cancel: CancelToken, plain: Plain | None = None) -> SandboxReport:
        """`plain`: without namespaces, over a folder that has everything (chroot, proot).

        Where the kernel gives no new /proc (inside a container that masks parts of it) the run shares our process ids, which is found out once.
        """
        try:
            return self._run(spec, on_output, cancel, plain)
        except _ProcRefused:
            self._shared_pids = True
            return self._run(spec, on_output, cancel, plain)

    def _run(self, spec: SandboxSpec, on_output: OnOutput, cancel: CancelToken, plain: Plain | None) -> SandboxReport:
        ours, theirs = socket.socketpair()
        pipes: list[tuple[Stream, int, int]] = [("stdout", *os.pipe()), ("stderr", *os.pipe())]
        try:
            self._send(self._kind(spec, plain), [pipes[0][2], pipes[1][2], theirs.fileno()])
        except OSError as error:
            for _, read, _ in pipes:
                os.close(read)
            ours.close()
            raise SandboxSetupFailed(f"the sandbox's helper process is gone: {error.strerror}") from error
        finally:
            theirs.close()
            for _, _, write in pipes:
                os.close(write)
        outputs = {read: name for name, read, _ in pipes}
        try:
            body = _encoded(document(spec, self._userxattr, self._single and plain is None, plain) | self._more())
            _tell(ours, struct.pack("!I", len(body)) + body)
            # Not before: a build that is cancelled already asks at once, and what it asks must not come before the run.
            withdraw = cancel.on_cancel(lambda: _ask(ours, b"T"))
            try:
                answer = _follow(ours, outputs, on_output)
            finally:
                withdraw()
        except _Ended as error:
            raise SandboxSetupFailed(f"the sandbox's helper ended early: {error}") from error
        finally:
            ours.close()  # whatever still runs is killed
            _drain(outputs)
        if not answer:
            raise SandboxSetupFailed("the sandbox's helper was killed", hint="the machine may be out of memory")
        found = _decoded(answer)
        if found.get("setup_error") == _PROC_REFUSED and not self._shared_pids:
            raise _ProcRefused("no new /proc is given here")
        if "setup_error" in found:
            raise SandboxSetupFailed(f"the sandbox could not be set up: {found['setup_error']}", hint="lamina doctor tells what works here")
        if self._single and plain is None:
            from lamina.sandbox import ownership

            ownership.complete(spec, found.get("owners", ()), found.get("devices", ()), tuple(found["user"]))
        return SandboxReport(
            found["exit_code"],
            found["signal"],
            found["timed_out"],
            found.get("oom", False),
            found["max_rss"],
            found["cpu"],
            found.get("limited", ""),
        )

    def _more(self) -> dict[str, Any]:
        found: dict[str, Any] = {"shared_pids": self._shared_pids, "oci": self._oci, "fuse": self._fuse}
        if self._limits is not None:
            found["limits"] = {"memory": self._limits.memory, "cpus": self._limits.cpus, "pids": self._limits.pids}
        return found

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None

    def _kind(self, spec: SandboxSpec, plain: Plain | None) -> bytes:
        """Whether a helper that has made the usual namespaces already can take this run (standalone/zygote.py, Spare)."""
        special = plain or self._single or self._shared_pids or self._oci or self._fuse or self._limits or spec.memory or spec.pids
        return b"R" if special or spec.network != "host" else b"S"

    def _send(self, kind: bytes, descriptors: list[int]) -> None:
        with self._lock:
            if self._process is None:
                self._process = ZygoteProcess()
            self._process.send(kind, descriptors)


def _tell(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError as error:
        raise _Ended(error.strerror) from error


def _follow(connection: socket.socket, outputs: dict[int, Stream], on_output: OnOutput) -> bytes:
    """Hand on what is written until all ends are closed, and the answer's line is there; b"" where the connection ended without one. What has
    ended is closed, and taken out of `outputs`. _Ended, and whatever `on_output` raises."""
    control = connection.fileno()
    answer = b""
    poll = select.poll()
    for descriptor in (control, *outputs):
        poll.register(descriptor, select.POLLIN)
    waiting = 1 + len(outputs)
    while waiting:
        for descriptor, _ in poll.poll():
            if descriptor == control:
                try:
                    data = connection.recv(_PIECE)
                except OSError as error:
                    raise _Ended(error.strerror) from error
                answer += data
                ended = not data or data.endswith(b"\n")
            else:
                data = os.read(descriptor, _PIECE)
                ended = not data
                if data:
                    on_output(outputs[descriptor], data)
            if ended:
                waiting -= 1
                poll.unregister(descriptor)
                if descriptor == control:
                    connection.close()  # what a run without namespaces left behind is killed now, and lets go of the others
                else:
                    del outputs[descriptor]
                    os.close(descriptor)
    return answer


def _drain(outputs: dict[int, Stream]) -> None:
    """Until nobody can write any more: then nothing of the run is left."""
    for descriptor in outputs:
        while os.read(descriptor, _PIECE):
            pass
        os.close(descriptor)


def _ask(connection: socket.socket, what: bytes) -> None:
    try:
        connection.send(what)
    except OSError:
        pass


def _encoded(values: dict[str, Any]) -> bytes:
    """JSON. Words that are no Unicode (lone surrogates) go as json has them, whose import costs more than all the rest here."""
    try:
        return msgspec.json.encode(values)
    except UnicodeEncodeError:
        import json

        return json.dumps(values).encode()


def _decoded(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any]
    try:
        found = msgspec.json.decode(answer)
    except msgspec.DecodeError:
        import json

        found = json.loads(answer)
    return found


def document(spec: SandboxSpec, userxattr: bool, single: bool = False, plain: Plain | None = None) -> dict[str, Any]:
    """The spec as standalone/helper.py reads it."""

    def overlay(value: Overlay) -> dict[str, Any]:
        return {"lowers": [str(p) for p in value.lowers], "upper": str(value.upper), "work": str(value.work)}

    hosts = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    if spec.hostname not in (name for name, _ in spec.hosts):
        hosts.append(f"127.0.1.1\t{spec.hostname}")
    hosts += [f"{address}\t{name}" for name, address in spec.hosts]
    return {
        **overlay(spec.root),
        "scratch": str(spec.root.work.parent),
        "stub": spec.stub,
        "userxattr": userxattr,
        "single": single,
        "shared_pids": False,
        "limits": {"memory": spec.memory, "pids": spec.pids, "only_groups": 1} if spec.memory or spec.pids else {},
        "oci": None,
        "tree": None if plain is None else str(plain.root),
        "proot": None if plain is None else plain.proot,
        "argv": list(spec.argv),
        "env": list(spec.env),
        "cwd": spec.cwd,
        "user": spec.user,
        "hostname": spec.hostname,
        "hosts_file": "\n".join(hosts) + "\n",
        "resolv_conf": _resolv_conf() if spec.network == "host" else "",
        "network": spec.network,
        "network_of": spec.network_of,
        "insecure": spec.insecure,
        "binds": [
            {
                "source": str(b.source),
                "target": b.target,
                "readonly": b.readonly,
                "below": b.below,
                "is_file": not (b.source / b.below).is_dir(),
            }
            for b in spec.binds
        ],
        "submounts": [
            {
                **overlay(m.overlay),
                "target": m.target,
                "selector": m.selector,
                "readonly": m.readonly,
                "is_file": _selects_file(m.overlay, m.selector),
            }
            for m in spec.submounts
        ],
        "tmpfs": [{"target": t.target, "size": t.size, "mode": t.mode} for t in spec.tmpfs],
        "secrets": [{"target": s.target, "data": s.data.hex(), "mode": s.mode, "uid": s.uid, "gid": s.gid} for s in spec.secrets],
        "shm_size": spec.shm_size,
        "rlimits": [list(limit) for limit in spec.rlimits],
        "timeout": spec.timeout,
    }


def _selects_file(overlay: Overlay, selector: str) -> bool:
    """A guess for the stub's mount point; where it is wrong (links) the mount point is made in the upper and removed afterwards."""
    for lower in overlay.lowers:
        path = os.path.join(lower, selector.lstrip("/"))
        if os.path.lexists(path):
            return not os.path.isdir(path)
    return False


def _resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text(errors="replace")
    except OSError:
        return ""
