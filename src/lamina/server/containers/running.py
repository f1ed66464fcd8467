"""The life of a container's process: start, output, end, restart; stop, kill and pause."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from lamina.diagnostics.errors import LaminaError
from lamina.sandbox import groups
from lamina.sandbox.containers import CannotStart, Process
from lamina.sandbox.limits import Limits
from lamina.server.containers import keeping
from lamina.server.containers.container import Container
from lamina.server.containers.log import STDERR, STDOUT
from lamina.server.containers.processes import pids
from lamina.server.containers.spec import process_spec, resolv_conf, sandbox_spec
from lamina.server.containers.stdin import Stdin
from lamina.server.errors import ApiError, BadRequest, Conflict

if TYPE_CHECKING:
    from lamina.sandbox.protocols import SandboxSpec
    from lamina.server.daemon import Daemon

_PIECE = 1 << 16
_BACKOFF = 0.1  # seconds before a first restart; doubled each time up to a minute
_SETTLED = 10.0  # who ran for so long begins with the first delay again


class AlreadyDone(ApiError):
    """304: it is as it was asked to be."""

    status = 304


def start(daemon: Daemon, container: Container) -> None:
    """AlreadyDone when it runs; else it runs when this returns, or the reason why it does not is raised."""
    with container.changed:
        if container.state.status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.running:
            raise AlreadyDone("already started")
        if container.removed:
            raise Conflict("container is marked for removal and cannot be started")
        container.state.restarts = container.state.restarts_in_a_row = 0
        container.stop_requested.clear()
        container.state.stopped_by_user = False
        _start(daemon, container)


def _start(daemon: Daemon, container: Container) -> None:
    """Under `container.changed`."""
    lowers = daemon.lowers(container.record.layers)
    owner = _network_owner(daemon, container)
    network_of = daemon.wiring.attach(container) if owner is container else _network_of(owner)
    hosts = daemon.wiring.hosts_for(owner)
    spec = sandbox_spec(container, lowers, daemon.volumes.path, hosts, machine=_on_machine(owner), network_of=network_of)
    config = container.record.config
    if config["OpenStdin"] and container.stdin is None:
        container.stdin = Stdin()
    stdin = container.stdin
    tty = container.tty
    readonly = bool(container.record.host["ReadonlyRootfs"])
    names = resolv_conf(owner, daemon.wiring.gateway_of(owner))
    reads: tuple[tuple[int, int], ...] = ()
    try:
        with open(os.devnull, "r+b") as null:
            first = stdin.read_end if stdin is not None and not tty else null.fileno()
            if daemon.keep:
                process: Process = keeping.begin(
                    daemon, container, spec, process_spec(container), first, readonly=readonly, resolv_conf=names
                )
            else:
                process, reads = _begin(daemon, container, spec, first, readonly, names)
    except LaminaError as error:
        _not_started(daemon, container, error)
        raise _start_error(error) from error
    if stdin is not None and not tty:
        stdin.close_reader()
    container.run += 1
    container.process = process
    state = container.state
    state.status, state.started, state.finished, state.error, state.exit_code = "running", daemon.now(), None, "", 0
    state.oom = False
    pumps = [_thread(_pump, daemon, container, stream, read) for stream, read in reads]
    if tty and stdin is not None:
        _thread(_type, stdin, process.terminal)
    container.save()
    _tell_of_networks(daemon, container, "connect")
    _tell_of_volumes(daemon, container, "mount")
    daemon.events.emit("container", "start", container.id, container.attributes())
    daemon.ports.open(container)
    container.notify()
    _thread(_supervise, daemon, container, process, pumps)
    _watch_health(daemon, container)


def _begin(
    daemon: Daemon, container: Container, spec: SandboxSpec, stdin: int, readonly: bool, names: str
) -> tuple[Process, tuple[tuple[int, int], ...]]:
    """One that ends with us: (the process, (stream, descriptor) of what it writes)."""
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    try:
        process = daemon.keeper.start(spec, process_spec(container), (stdin, out_write, err_write), readonly=readonly, resolv_conf=names)
    except BaseException:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)
    if process.terminal is None:
        return process, ((STDOUT, out_read), (STDERR, err_read))
    os.close(out_read)
    os.close(err_read)
    return process, ((STDOUT, os.dup(process.terminal)),)


def _tell_of_networks(daemon: Daemon, container: Container, action: str) -> None:
    for name in container.record.networks:
        network = daemon.networks.named(name)
        if network is not None:
            daemon.events.emit("network", action, network.id, {"container": container.id, "name": name, "type": network.driver})


def _tell_of_volumes(daemon: Daemon, container: Container, action: str) -> None:
    for mount in container.record.mounts:
        if mount.type == "volume":
            found = {"container": container.id, "driver": "local"}
            if action == "mount":
                found |= {"destination": mount.target, "propagation": "", "read/write": "false" if mount.readonly else "true"}
            daemon.events.emit("volume", action, mount.name, found)


def go_on(daemon: Daemon, container: Container) -> None:
    """Watch over a container that was taken over."""
    process = container.process
    if process is None:
        return
    if process.terminal is not None and container.stdin is not None:
        _thread(_type, container.stdin, process.terminal)
    _thread(_supervise, daemon, container, process, [])
    _watch_health(daemon, container)


def _watch_health(daemon: Daemon, container: Container) -> None:
    test = container.record.config.get("Healthcheck", {}).get("Test")
    if test and test[0] != "NONE":
        from lamina.server.containers.health import watch

        container.health = {"Status": "starting", "FailingStreak": 0, "Log": []}
        _thread(watch, daemon, container, container.run)


def _network_owner(daemon: Daemon, container: Container) -> Container:
    """The container whose network it shares, mostly itself."""
    mode = str(container.record.host["NetworkMode"])
    if not mode.startswith("container:"):
        return container
    other = daemon.containers.find(mode.partition(":")[2])
    if other is container or other.process is None:
        raise Conflict(f"cannot join network of a non running container: {other.id}")
    return _network_owner(daemon, other)


def _on_machine(owner: Container) -> bool:
    return bool(owner.record.host["NetworkMode"] == "host")


def _network_of(owner: Container) -> str:
    """The file of its network; "" for the machine's. Conflict."""
    process = owner.process
    if process is None:
        raise Conflict(f"cannot join network of a non running container: {owner.id}")
    return "" if _on_machine(owner) else f"/proc/{process.pid}/ns/net"


def _not_started(daemon: Daemon, container: Container, error: LaminaError) -> None:
    daemon.wiring.detach(container)
    container.state.exit_code = error.exit_code if isinstance(error, CannotStart) else 128
    container.state.error = error.message
    container.run += 1
    container.ended = container.run
    if container.stdin is not None:
        container.stdin.close()
        container.stdin.close_reader()
        container.stdin = None
    container.save()
    container.notify()
    if container.record.host["AutoRemove"]:
        daemon.containers.remove(container, force=True, volumes=True)


def _start_error(error: LaminaError) -> ApiError:
    if isinstance(error, CannotStart):
        return BadRequest(
            f"failed to create task for container: failed to create shim task: OCI runtime create failed: container_linux.go: starting container process caused: {error.message}: unknown"
        )
    return ApiError(error.message)


def _pump(daemon: Daemon, container: Container, stream: int, descriptor: int) -> None:
    try:
        while True:
            try:
                data = os.read(descriptor, _PIECE)
            except OSError:  # EIO: the terminal's other side was closed
                break
            if not data:
                break
            container.log.append(stream, data, daemon.now_nano())
    finally:
        os.close(descriptor)


def _type(stdin: Stdin, terminal: int) -> None:
    """What clients type into the terminal."""
    writing = os.dup(terminal)
    reading = os.dup(stdin.read_end)
    try:
        while data := os.read(reading, _PIECE):
            view = memoryview(data)
            while view:
                view = view[os.write(writing, view) :]
    except OSError:
        pass
    finally:
        os.close(writing)
        os.close(reading)


def _supervise(daemon: Daemon, container: Container, process: Process, pumps: list[threading.Thread]) -> None:
    ended = process.wait()
    if process.left:
        keeping.put_down(container)
        return
    for pump in pumps:
        pump.join(5.0 if container.tty else None)
    with container.changed:
        if process.terminal is not None:
            os.close(process.terminal)
            process.terminal = None
        if container.stdin is not None:
            container.stdin.close()
            container.stdin.close_reader()
            container.stdin = None
        state = container.state
        state.status, state.exit_code, state.finished = "exited", ended.exit_code, daemon.now()
        state.oom = ended.oom
        groups.remove(container.made_groups)
        container.made_groups = ()
        container.process = None
        container.ended = container.run
        container.health = None
        daemon.ports.close(container)
        daemon.wiring.detach(container)
        removing = container.record.host["AutoRemove"] and not container.removed
        if (state.finished or 0) - (state.started or 0) >= _SETTLED:
            state.restarts_in_a_row = 0
        delay = None if container.removed or daemon.closing else restart_delay(container)
        if delay is not None:
            state.status = "restarting"
        container.save()
        keeping.ended(daemon, container)
        container.log.close()
        daemon.events.emit("container", "die", container.id, {**container.attributes(), "exitCode": str(ended.exit_code)})
        _tell_of_networks(daemon, container, "disconnect")
        _tell_of_volumes(daemon, container, "unmount")
        container.notify()
    daemon.execs.forget(container)
    if removing:
        with contextlib.suppress(ApiError):
            daemon.containers.remove(container, force=True, volumes=True)
    elif delay is not None:
        again(daemon, container, delay)


def again(daemon: Daemon, container: Container, delay: float) -> None:
    """Start it after `delay` seconds, until it does or its policy gives up; a stop or removal meanwhile ends that."""
    while not container.stop_requested.wait(delay):
        with container.changed:
            if container.running or container.removed or daemon.closing:
                return
            container.state.restarts += 1
            container.state.restarts_in_a_row += 1
            try:
                _start(daemon, container)
                return
            except LaminaError:
                next_delay = restart_delay(container)
                if next_delay is None:
                    return
                container.state.status, delay = "restarting", next_delay
    with container.changed:
        if container.state.status == "restarting":
            container.state.status = "exited"
            container.save()
            container.notify()


def resume(daemon: Daemon) -> None:
    """At the engine's start: what the policies want to run, each on a thread of its own."""
    for container in daemon.containers.all():
        policy, state = container.record.host["RestartPolicy"]["Name"], container.state
        if (
            container.running
            or policy == "no"
            or state.started is None
            or (policy != "always" and (state.stopped_by_user or restart_delay(container) is None))
        ):
            continue
        state.restarts = state.restarts_in_a_row = 0
        container.stop_requested.clear()
        state.stopped_by_user = False
        _thread(again, daemon, container, 0.0)


def restart_delay(container: Container) -> float | None:
    """Seconds until the policy starts it again: 0.1, doubled each time up to a minute, from anew after it ran for a while. None: not at all."""
    policy = container.record.host["RestartPolicy"]
    name, most = policy["Name"], int(policy.get("MaximumRetryCount") or 0)
    state = container.state
    if name == "no" or state.stopped_by_user:
        return None
    if name == "on-failure" and (state.exit_code == 0 or (most and state.restarts >= most)):
        return None
    return float(min(60.0, _BACKOFF * 2 ** min(state.restarts_in_a_row, 12)))


# From outside


def number_of(text: str | int, default: int = signal.SIGKILL) -> int:
    """A signal's number from `SIGTERM`, `TERM` or `15`. BadRequest."""
    name = str(text).strip().upper()
    if not name:
        return default
    if name.isascii() and name.isdigit() and len(name) < 4 and 0 < int(name) < 65:
        return int(name)
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise BadRequest(f"Invalid signal: {text}")
    return int(found)


def limit(container: Container, wanted: Limits) -> None:
    """Change the limits of a container, at once when it runs; those that nothing can hold here are passed over. ApiError."""
    process = container.process
    if process is None or not container.running or wanted == Limits():
        return
    held = groups.possible()
    wanted = Limits(*(getattr(wanted, name) if name in held else 0 for name in ("memory", "cpus", "pids")))
    try:
        container.made_groups += groups.change((*process.groups, *container.made_groups), wanted, pids(process.pid))
        keeping.tell(container)
    except OSError as error:
        raise ApiError(f"Cannot update container {container.id}: {error.strerror or error}") from error


def kill(daemon: Daemon, container: Container, number: int, *, by_user: bool = True) -> None:
    with container.changed:
        if not container.running or container.process is None:
            raise Conflict(f"Cannot kill container: {container.id}: Container {container.id} is not running")
        if number in (signal.SIGKILL, signal.SIGTERM, number_of(container.record.config.get("StopSignal", ""), signal.SIGTERM)):
            container.state.stopped_by_user = container.state.stopped_by_user or by_user
            container.stop_requested.set()
        container.process.signal(number)
        if number == signal.SIGKILL:
            _resume(container)
    daemon.events.emit("container", "kill", container.id, {**container.attributes(), "signal": str(number)})


def stop(daemon: Daemon, container: Container, timeout: float | None) -> None:
    """The stop signal, then after `timeout` seconds (None: the container's own, else 10; negative: never) SIGKILL. AlreadyDone."""
    container.stop_requested.set()
    with container.changed:
        container.state.stopped_by_user = True
        if not container.running:
            waiting = container.state.status == "restarting"
            if waiting:
                container.state.status = "exited"
            container.save()
            container.notify()
            if waiting:
                return
            raise AlreadyDone("already stopped")
        run = container.run
    if timeout is None:
        configured = container.record.config.get("StopTimeout")
        timeout = 10.0 if configured is None else float(configured)
    with contextlib.suppress(Conflict):
        if container.state.status == "paused":
            unpause(daemon, container)
        kill(daemon, container, number_of(container.record.config.get("StopSignal", ""), signal.SIGTERM))
        if not wait_for_end(container, run, None if timeout < 0 else timeout):
            kill(daemon, container, signal.SIGKILL)
            wait_for_end(container, run, None)
    daemon.events.emit("container", "stop", container.id, container.attributes())


def restart(daemon: Daemon, container: Container, timeout: float | None) -> None:
    with contextlib.suppress(AlreadyDone):
        _stop_for_restart(daemon, container, timeout)
    start(daemon, container)
    daemon.events.emit("container", "restart", container.id, container.attributes())


def _stop_for_restart(daemon: Daemon, container: Container, timeout: float | None) -> None:
    automatic = container.record.host["AutoRemove"]
    container.record.host["AutoRemove"] = False
    try:
        stop(daemon, container, timeout)
    finally:
        container.record.host["AutoRemove"] = automatic


def wait_for_end(container: Container, run: int, timeout: float | None) -> bool:
    """Whether the run has ended, its output complete."""
    with container.changed:
        return container.changed.wait_for(lambda: container.ended >= run or container.removed, timeout)


def pause(daemon: Daemon, container: Container) -> None:
    """Every process gets SIGSTOP: no cgroup is used. What forks meanwhile is caught in a second round."""
    with container.changed:
        if not container.running or container.process is None:
            raise Conflict(f"Container {container.id} is not running")
        if container.state.status == "paused":
            raise Conflict(f"Container {container.id} is already paused")
        for _ in range(2):
            _signal_all(container, signal.SIGSTOP)
        container.state.status = "paused"
        container.save()
    daemon.events.emit("container", "pause", container.id, container.attributes())


def unpause(daemon: Daemon, container: Container) -> None:
    with container.changed:
        if container.state.status != "paused":
            raise Conflict(f"Container {container.id} is not paused")
        _resume(container)
        container.state.status = "running"
        container.save()
    daemon.events.emit("container", "unpause", container.id, container.attributes())


def _resume(container: Container) -> None:
    if container.state.status == "paused":
        _signal_all(container, signal.SIGCONT)


def _signal_all(container: Container, number: int) -> None:
    if container.process is not None:
        for pid in pids(container.process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def end_all(daemon: Daemon, seconds: float) -> None:
    """Before the engine ends: everything is stopped, then killed."""
    running = [container for container in daemon.containers.all() if container.running]
    for container in running:
        with contextlib.suppress(LaminaError):
            kill(daemon, container, number_of(container.record.config.get("StopSignal", ""), signal.SIGTERM), by_user=False)
    deadline = time.monotonic() + seconds
    for container in running:
        if not wait_for_end(container, container.run, max(0.0, deadline - time.monotonic())):
            with contextlib.suppress(LaminaError):
                kill(daemon, container, signal.SIGKILL, by_user=False)
            wait_for_end(container, container.run, 5.0)


def _thread(target: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]  # any function of these arguments
    thread.start()
    return thread
