"""The way out of a step's own network: an HTTP proxy that listens inside of it and connects outside.

A network of loopback only is what lets two steps open one port; but package managers must reach their registries. They speak through a proxy when the
usual variables name one. CONNECT (anything with TLS, git) and plain http:// are passed on; where the machine itself needs a proxy, to that one.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from lamina.sandbox.networks import SharedNetwork

PORT = 29418  # taken inside every step on Bitbucket too, by a proxy of its own
_HEAD = 1 << 16  # bytes
_PATIENCE = 30.0  # seconds to connect


class Outward:
    """Thread-safe. `proxies`: the machine's own, by the usual names."""

    def __init__(self, network: SharedNetwork, proxies: Mapping[str, str]) -> None:
        upper = {name.upper(): value for name, value in proxies.items()}
        self._upstream = {
            kind: urlsplit(upper[name]) for kind, name in (("https", "HTTPS_PROXY"), ("http", "HTTP_PROXY")) if upper.get(name)
        }
        self._listener = network.listen(PORT)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True, name="lamina-outward").start()

    def environment(self) -> dict[str, str]:
        """For programs inside; in small and capital letters, since programs differ."""
        found = {"http_proxy": f"http://127.0.0.1:{PORT}", "https_proxy": f"http://127.0.0.1:{PORT}", "no_proxy": "localhost,127.0.0.1,::1"}
        return found | {name.upper(): value for name, value in found.items()}

    def close(self) -> None:
        """Idempotent; ends what is open."""
        with self._lock:
            self._closed = True
            left = [self._listener, *self._open]
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.ExitStack() as stack:
            self._keep(stack, client)
            try:
                self._pass_on(client, stack)
            except (OSError, ValueError):
                return

    def _keep(self, stack: contextlib.ExitStack, one: socket.socket) -> None:
        with self._lock:
            if self._closed:
                one.close()
            self._open.add(one)
        stack.callback(self._open.discard, one)

    def _pass_on(self, client: socket.socket, stack: contextlib.ExitStack) -> None:
        head, body = _head(client)
        first, _, rest = head.partition(b"\r\n")
        method, target, version = first.decode("latin-1").split(" ")
        connect = method == "CONNECT"
        url = urlsplit(f"//{target}" if connect else target)
        host, port = url.hostname, url.port or (443 if connect else 80)
        if not host or (not connect and url.scheme != "http"):
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        upstream = self._upstream.get("https" if connect else "http")
        try:
            far = _connect(upstream.hostname or "", upstream.port or 80) if upstream is not None else _connect(host, port)
        except OSError as error:
            text = f"lamina: {host}:{port}: {error.strerror or error}\n".encode()
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
            return
        with far:
            self._keep(stack, far)
            kept = _without(rest, b"proxy-")
            if upstream is not None:
                far.sendall(first + b"\r\n" + _credentials(upstream) + kept + b"\r\n" + body)
            elif connect:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                far.sendall(body)
            else:
                path = (url.path or "/") + (f"?{url.query}" if url.query else "")
                line = f"{method} {path} {version}\r\nConnection: close\r\n".encode("latin-1")
                far.sendall(line + _without(kept, b"connection:", b"keep-alive:") + b"\r\n" + body)
            back = threading.Thread(target=_copy, args=(far, client), daemon=True)
            back.start()
            _copy(client, far)
            back.join()


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(_HEAD)
        if not piece or len(data) > _HEAD:
            raise ValueError("no request")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _without(headers: bytes, *names: bytes) -> bytes:
    kept = [line for line in headers.split(b"\r\n") if line and not line.lower().startswith(names)]
    return b"".join(line + b"\r\n" for line in kept)


def _credentials(proxy: SplitResult) -> bytes:
    if proxy.username is None:
        return b""
    told = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return b"Proxy-Authorization: Basic " + base64.b64encode(told) + b"\r\n"


def _connect(host: str, port: int) -> socket.socket:
    far = socket.create_connection((host, port), timeout=_PATIENCE)
    far.settimeout(None)
    return far


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
