"""Published ports: a listener on the machine, and for each connection one made to the container's address."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from lamina.sandbox.kept import KeptProcess
from lamina.server.errors import ApiError, BadRequest
from lamina.server.relay import relay

if TYPE_CHECKING:
    from lamina.server.containers.container import Container
    from lamina.server.wiring import Wiring

_NEWNET = 0x40000000
_PATIENCE = 10.0
_TALKS = 256  # of one udp port, at a time
_TALK_ENDS = 60.0  # seconds without a datagram


class Ports:
    """Thread-safe. A container on the machine's own network needs none of it."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._listeners: dict[str, list[socket.socket]] = {}

    def open(self, container: Container, held: dict[str, int] | None = None) -> None:
        """Listen at all published ports of a container that has just begun. ApiError when one is taken; then none is open.

        `held`: sockets that the engine before listened at, by `port:PORT:NUMBER`; those that are used are taken out. One that outlives us holds ours.
        """
        found: dict[str, list[dict[str, str]]] = {}
        listeners: list[socket.socket] = []
        shared = container.record.host["NetworkMode"] == "host"
        try:
            for port, wanted in _wanted(container).items():
                found[port] = []
                for number, binding in enumerate(wanted if not shared else []):
                    name = f"port:{port}:{number}"
                    if held is not None and name in held:
                        listener = socket.socket(fileno=held.pop(name))
                        place = _place(listener, binding)
                    else:
                        listener, place = _listen(port, binding)
                        if isinstance(container.process, KeptProcess):
                            container.process.hold(name, listener.fileno())
                    listeners.append(listener)
                    found[port].append(place)
                    serve = self._serve_udp if port.endswith("/udp") else self._serve
                    threading.Thread(target=serve, args=(listener, container, int(port.partition("/")[0])), daemon=True).start()
        except (OSError, ApiError) as error:
            _end(listeners)
            container.ports = {}
            container.state.error = str(error)
            if container.process is not None:
                container.process.signal(9)
            if isinstance(error, ApiError):
                raise
            raise ApiError(
                f"driver failed programming external connectivity on endpoint {container.name}: {error.strerror or error}"
            ) from error
        container.ports = found
        self._listeners[container.id] = listeners

    def close(self, container: Container) -> None:
        container.ports = {}
        _end(self._listeners.pop(container.id, ()))

    def _serve(self, listener: socket.socket, container: Container, port: int) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client, container, port), daemon=True).start()

    def _forward(self, client: socket.socket, container: Container, port: int) -> None:
        try:
            other = self._reach(container, port, socket.SOCK_STREAM)
        except OSError:
            client.close()
            return
        relay(client, other)

    def _reach(self, container: Container, port: int, kind: int) -> socket.socket:
        """Connected to the container's port. OSError."""
        plug = next(iter(container.plugs.values()), None)
        if plug is None:
            return _from_inside(container, port, kind)
        made = self._wiring.socket(kind)
        try:
            made.settimeout(_PATIENCE)
            made.connect((plug.address, port))
            made.settimeout(None)
        except OSError:
            made.close()
            raise
        return made

    def _serve_udp(self, listener: socket.socket, container: Container, port: int) -> None:
        """A socket for each client, until it was silent for a while."""
        talks: dict[tuple[Any, ...], tuple[socket.socket, float]] = {}
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in selector.select(_TALK_ENDS if talks else None):
                    if key.data is not None:
                        with contextlib.suppress(ConnectionError):
                            listener.sendto(key.fileobj.recv(1 << 16), key.data)  # type: ignore[union-attr]  # sockets are registered only
                        continue
                    data, place = listener.recvfrom(1 << 16)
                    if place is None or listener.fileno() < 0:
                        return
                    if place not in talks and len(talks) < _TALKS:
                        with contextlib.suppress(OSError):
                            talks[place] = (self._reach(container, port, socket.SOCK_DGRAM), 0.0)
                            selector.register(talks[place][0], selectors.EVENT_READ, place)
                    if place in talks:
                        with contextlib.suppress(ConnectionError):
                            talks[place][0].send(data)
                        talks[place] = (talks[place][0], time.monotonic())
                now = time.monotonic()
                for place in [place for place, (_, last) in talks.items() if now - last > _TALK_ENDS]:
                    selector.unregister(talks[place][0])
                    talks.pop(place)[0].close()
        except (OSError, ValueError):
            pass  # the container has ended
        finally:
            selector.close()
            for talk, _ in talks.values():
                talk.close()
            listener.close()


def _end(listeners: list[socket.socket] | tuple[socket.socket, ...]) -> None:
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        if listener.type == socket.SOCK_STREAM:
            listener.close()


def _wanted(container: Container) -> dict[str, list[dict[str, str]]]:
    """By `80/tcp`: the bindings asked for; [] for a port that is only exposed."""
    host: dict[str, Any] = container.record.host
    exposed = list(container.record.config.get("ExposedPorts") or ())
    wanted: dict[str, list[dict[str, str]]] = {_named(port): [] for port in exposed}
    if host.get("PublishAllPorts"):
        wanted = {port: [{}] for port in wanted}
    for port, bindings in (host.get("PortBindings") or {}).items():
        wanted[_named(port)] = [dict(binding or {}) for binding in bindings or [{}]]
    return wanted


def _named(port: str) -> str:
    number, _, kind = port.partition("/")
    if not _is_port(number) or not 0 < int(number) < 65536:
        raise BadRequest(f"invalid port specification: {port!r}")
    return f"{number}/{kind or 'tcp'}"


def _listen(port: str, binding: dict[str, str]) -> tuple[socket.socket, dict[str, str]]:
    """At the port asked for, or the first free one of a range (`8000-8010`)."""
    kind = port.partition("/")[2]
    if kind not in ("tcp", "udp"):
        raise BadRequest(f"port {port}: only tcp and udp ports can be published by this engine")
    address = binding.get("HostIp") or "0.0.0.0"
    first, dash, last = (binding.get("HostPort") or "0").partition("-")
    if not _is_port(first) or not _is_port(last or "0") or not int(first) <= int(last or first) < 65536:
        raise BadRequest(f"port {port}: {binding.get('HostPort')!r} is no port")
    why: OSError | None = None
    for number in range(int(first), int(last or first) + 1):
        listener = socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
        )
        try:
            if kind == "tcp":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, number))
            if kind == "tcp":
                listener.listen(128)
            return listener, _place(listener, binding)
        except OSError as error:
            listener.close()
            why = error
    assert why is not None
    raise ApiError(
        f"Bind for {address}:{first}{dash}{last} failed: {'port is already allocated' if why.errno == 98 else why.strerror}"
    ) from why


def _place(listener: socket.socket, binding: dict[str, str]) -> dict[str, str]:
    return {"HostIp": binding.get("HostIp") or "0.0.0.0", "HostPort": str(listener.getsockname()[1])}


def _from_inside(container: Container, port: int, kind: int) -> socket.socket:
    """Where containers have loopback only. A socket stays in the network where it was made; the thread that enters it ends. OSError."""
    process = container.process
    made: list[socket.socket] = []

    def connect() -> None:
        assert process is not None
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(namespace, _NEWNET):
                return
        finally:
            os.close(namespace)
        connection = socket.socket(socket.AF_INET, kind)
        try:
            connection.settimeout(_PATIENCE)
            connection.connect(("127.0.0.1", port))
            connection.settimeout(None)
        except OSError:
            connection.close()
            return
        made.append(connection)

    def quietly() -> None:
        with contextlib.suppress(OSError):
            connect()

    if process is not None:
        maker = threading.Thread(target=quietly, daemon=True)
        maker.start()
        maker.join()
    if not made:
        raise ConnectionRefusedError("nobody listens there")
    return made[0]


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
