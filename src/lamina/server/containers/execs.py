"""`docker exec`: commands in a running container."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.sandbox.containers import CannotStart, Process, ProcessSpec
from lamina.server.containers.attaching import DetachKeys, detach_keys, framed
from lamina.server.containers.container import Container
from lamina.server.containers.spec import process_spec
from lamina.server.errors import BadRequest, ClientGone, Conflict, NotFound
from lamina.server.http.messages import Duplex

if TYPE_CHECKING:
    from lamina.server.daemon import Daemon

_PIECE = 1 << 16
_KEPT = 512  # ended ones that can still be asked for their exit code


class Exec:
    """One command. `exit_code` is None until it has ended."""

    def __init__(self, identifier: str, container: Container, body: Mapping[str, Any]) -> None:
        self.id = identifier
        self.container = container
        self.argv: list[str] = [str(word) for word in body.get("Cmd") or ()]
        self.tty = bool(body.get("Tty"))
        self.stdin = bool(body.get("AttachStdin"))
        self.stdout = bool(body.get("AttachStdout"))
        self.stderr = bool(body.get("AttachStderr"))
        self.user = str(body.get("User") or "")
        self.cwd = str(body.get("WorkingDir") or "")
        self.env: list[str] = [str(item) for item in body.get("Env") or ()]
        self.privileged = bool(body.get("Privileged"))
        self.keys = detach_keys(str(body.get("DetachKeys") or ""))
        self.size = (0, 0)
        self.process: Process | None = None
        self.started = False
        self.running = False
        self.exit_code: int | None = None
        self.ended = threading.Event()


class Execs:
    """Thread-safe."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._lock = threading.Lock()
        self._execs: dict[str, Exec] = {}

    def create(self, container: Container, body: Mapping[str, Any]) -> Exec:
        if not container.running:
            raise Conflict(f"Container {container.id} is not running")
        if container.state.status == "paused":
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        made = Exec(os.urandom(32).hex(), container, body)
        if not made.argv:
            raise BadRequest("No exec command specified")
        if made.privileged and not self._daemon.rules.privileged:
            raise BadRequest("privileged commands are not allowed by this engine (lamina serve --allow-privileged)", 403)
        with self._lock:
            while len(self._execs) >= _KEPT:
                old = next((name for name, each in self._execs.items() if each.ended.is_set()), None)
                if old is None:
                    break
                del self._execs[old]
            self._execs[made.id] = made
        self._daemon.events.emit(
            "container", f"exec_create: {' '.join(made.argv)}", container.id, {**container.attributes(), "execID": made.id}
        )
        return made

    def find(self, identifier: str) -> Exec:
        with self._lock:
            found = self._execs.get(identifier)
        if found is None:
            raise NotFound(f"No such exec instance: {identifier}")
        return found

    def of(self, container: Container) -> list[str]:
        with self._lock:
            return [each.id for each in self._execs.values() if each.container is container and each.running]

    def forget(self, container: Container) -> None:
        """The container has ended: so have its commands. Their exit codes can still be asked for."""
        with self._lock:
            for each in self._execs.values():
                if each.container is container and not each.started:
                    each.ended.set()

    def run(self, made: Exec, duplex: Duplex | None) -> None:
        """Until it ended and its output is out, or the client is gone; without a client the output is thrown away."""
        stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        attached = duplex is not None
        try:
            streams = (
                stdin_read if made.stdin and attached else null,
                out_write if made.stdout and attached else null,
                err_write if made.stderr and attached else null,
            )
            made.process = self._begin(made, streams)
        except LaminaError as error:
            for number in (stdin_write, out_read, err_read):
                os.close(number)
            self._failed(made, duplex, error)
            return
        finally:
            for number in (stdin_read, out_write, err_write, null):
                os.close(number)
        self._daemon.events.emit(
            "container", f"exec_start: {' '.join(made.argv)}", made.container.id, {**made.container.attributes(), "execID": made.id}
        )
        end = threading.Thread(target=self._wait, args=(made,), daemon=True)
        end.start()
        if duplex is None:
            for number in (stdin_write, out_read, err_read):
                os.close(number)
            return
        self._talk(made, duplex, stdin_write, out_read, err_read)

    def _begin(self, made: Exec, streams: tuple[int, int, int]) -> Process:
        container = made.container
        with container.changed:
            if container.process is None or not container.running:
                made.started = True
                raise Conflict(f"Container {container.id} is not running")
            pid, groups = container.process.pid, (*container.process.groups, *container.made_groups)
        base = process_spec(container)
        names = {item.partition("=")[0] for item in made.env}
        env = [item for item in base.env if item.partition("=")[0] not in names] + [item for item in made.env if "=" in item]
        if made.tty and not any(item.startswith("TERM=") for item in env):
            env.append("TERM=xterm")
        spec = msgspec.structs.replace(
            base,
            control_groups=groups,
            argv=tuple(made.argv),
            env=tuple(env),
            cwd=made.cwd or base.cwd,
            user=made.user or base.user,
            tty=made.tty,
            size=made.size,
        )
        if made.privileged:
            spec = msgspec.structs.replace(spec, privileged=True)
        made.started = True
        process = self._daemon.keeper.exec(pid, spec, streams)
        made.running = True
        return process

    def _failed(self, made: Exec, duplex: Duplex | None, error: LaminaError) -> None:
        made.exit_code = error.exit_code if isinstance(error, CannotStart) else 126
        made.ended.set()
        text = f"OCI runtime exec failed: exec failed: unable to start container process: {error.message}: unknown\r\n".encode()
        if duplex is not None:
            with contextlib.suppress(ClientGone):
                duplex.write(text if made.tty else framed(1, text))

    def _wait(self, made: Exec) -> None:
        process = made.process
        assert process is not None
        made.exit_code = process.wait().exit_code
        made.running = False
        made.ended.set()
        self._daemon.events.emit(
            "container", "exec_die", made.container.id, {**made.container.attributes(), "execID": made.id, "exitCode": str(made.exit_code)}
        )

    def _talk(self, made: Exec, duplex: Duplex, stdin: int, out: int, err: int) -> None:
        process = made.process
        assert process is not None
        if made.tty:
            os.close(out)
            os.close(err)
            assert process.terminal is not None
            reading, writing = os.dup(process.terminal), os.dup(process.terminal)
            os.close(stdin)
            if made.stdin:
                threading.Thread(target=_feed, args=(duplex, writing, made, True), daemon=True).start()
            else:
                os.close(writing)
            try:
                _pump(reading, duplex, None)
            finally:
                # The terminal stays until the process has ended: closing it would hang it up.
                threading.Thread(target=_close_after, args=(made, process), daemon=True).start()
        else:
            if made.stdin:
                threading.Thread(target=_feed, args=(duplex, stdin, made, False), daemon=True).start()
            else:
                os.close(stdin)
            lock = threading.Lock()
            other = threading.Thread(target=_pump, args=(err, duplex, 2, lock), daemon=True)
            other.start()
            _pump(out, duplex, 1, lock)
            other.join()
        made.ended.wait()

    def run_quietly(self, container: Container, argv: Sequence[str], timeout: float, most: int) -> tuple[int, bytes]:
        """(exit code, the beginning of its output) of a health check; -1 when it took too long."""
        read, write = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            with container.changed:
                if container.process is None:
                    raise Conflict(f"Container {container.id} is not running")
                pid, groups = container.process.pid, (*container.process.groups, *container.made_groups)
            spec: ProcessSpec = msgspec.structs.replace(process_spec(container), control_groups=groups, argv=tuple(argv), tty=False)
            process = self._daemon.keeper.exec(pid, spec, (null, write, write))
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(null)
            os.close(write)
        late = threading.Timer(timeout, process.signal, (9,))
        late.start()
        output = b""
        with open(read, "rb", buffering=0) as pipe:
            while data := pipe.read(_PIECE):
                output = (output + data)[:most]
        ended = process.wait()
        expired = not late.is_alive() and ended.signal == 9
        late.cancel()
        return (-1, f"Health check exceeded timeout ({timeout:g}s)".encode()) if expired else (ended.exit_code, output)


def _pump(descriptor: int, duplex: Duplex, stream: int | None, lock: threading.Lock | None = None) -> None:
    try:
        while True:
            try:
                data = os.read(descriptor, _PIECE)
            except OSError:
                return
            if not data:
                return
            if lock is None or stream is None:
                duplex.write(data)
            else:
                with lock:
                    duplex.write(framed(stream, data))
    except ClientGone:
        # What it still writes is thrown away, so that it does not wait for a reader for ever.
        while _read(descriptor):
            pass
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _PIECE)
    except OSError:
        return b""


def _feed(duplex: Duplex, descriptor: int, made: Exec, tty: bool) -> None:
    keys = DetachKeys(made.keys if tty else b"")
    try:
        while data := duplex.read():
            data, leaving = keys.feed(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if leaving:
                return
    except (ClientGone, OSError):
        pass
    finally:
        os.close(descriptor)


def _close_after(made: Exec, process: Process) -> None:
    made.ended.wait()
    if process.terminal is not None:
        os.close(process.terminal)
        process.terminal = None


def resize(process: Process | None, rows: int, columns: int) -> None:
    import fcntl
    import termios

    if process is not None and process.terminal is not None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(process.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
