"""Published ports: a listener on the machine, and for each connection one made inside the container's network."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from lamina.server.errors import ApiError, BadRequest

if TYPE_CHECKING:
    from lamina.server.containers.container import Container

_NEWNET = 0x40000000
_PIECE = 1 << 16


class Ports:
    """Thread-safe. A container on the machine's own network needs none of it."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[socket.socket]] = {}

    def open(self, container: Container) -> None:
        """Listen at all published ports of a container that has just begun. ApiError when one is taken; then none is open."""
        found: dict[str, list[dict[str, str]]] = {}
        listeners: list[socket.socket] = []
        host = container.record.host["NetworkMode"] == "host"
        try:
            for port, wanted in _wanted(container).items():
                found[port] = []
                for binding in wanted if not host else []:
                    listener, place = _listen(port, binding)
                    listeners.append(listener)
                    found[port].append(place)
                    threading.Thread(target=_serve, args=(listener, container, int(port.partition("/")[0])), daemon=True).start()
        except (OSError, ApiError) as error:
            for listener in listeners:
                listener.close()
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
        for listener in self._listeners.pop(container.id, ()):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
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
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise BadRequest(f"invalid port specification: {port!r}")
    return f"{number}/{kind or 'tcp'}"


def _listen(port: str, binding: dict[str, str]) -> tuple[socket.socket, dict[str, str]]:
    if not port.endswith("/tcp"):
        raise BadRequest(f"port {port}: only tcp ports can be published by this engine")
    address = binding.get("HostIp") or "0.0.0.0"
    number = binding.get("HostPort") or "0"
    if not number.isdigit():
        raise BadRequest(f"port {port}: {number!r} is not a single port")
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, int(number)))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ApiError(
            f"Bind for {address}:{number} failed: {'port is already allocated' if error.errno == 98 else error.strerror}"
        ) from error
    return listener, {"HostIp": address, "HostPort": str(listener.getsockname()[1])}


def _serve(listener: socket.socket, container: Container, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_forward, args=(client, container, port), daemon=True).start()


def _forward(client: socket.socket, container: Container, port: int) -> None:
    process = container.process
    inside: list[socket.socket] = []
    if process is not None:
        maker = threading.Thread(target=_connect, args=(process.pid, port, inside), daemon=True)  # its network changes: it ends after it
        maker.start()
        maker.join()
    if not inside:
        client.close()
        return
    other = inside[0]
    with client, other:
        back = threading.Thread(target=_copy, args=(other, client), daemon=True)
        back.start()
        _copy(client, other)
        back.join()


def _connect(pid: int, port: int, made: list[socket.socket]) -> None:
    """In the container's network: a socket stays in the network where it was made."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if libc.setns(namespace, _NEWNET):
            return
    finally:
        os.close(namespace)
    with contextlib.suppress(OSError):
        made.append(socket.create_connection(("127.0.0.1", port), 10))
        made[0].settimeout(None)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(_PIECE):
            sink.sendall(data)
    except OSError:
        pass
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
