"""The cache API on a TCP port: one thread for each connection, bounded in number and patience."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from lamina.server.cacheapi import CacheReply, CacheRequest

if TYPE_CHECKING:
    import ssl

_PIECE = 1 << 20
_PATIENCE = 60.0  # seconds without a byte
_CONNECTIONS = 128


class CacheServer:
    """Listens when made; `run` serves until `stop` is called from another thread or a signal handler's thread. `address`: (host, port)."""

    def __init__(self, handle: Callable[[CacheRequest], CacheReply], host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        class Handler(_Handler):
            api = staticmethod(handle)

        self._server = _Server((host, port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.address: tuple[str, int] = (host, self._server.server_address[1])

    def run(self) -> None:
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self._server.server_close()

    def stop(self) -> None:
        """Blocks until `run` has returned."""
        self._server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: object) -> None:
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(*args)  # type: ignore[arg-type]  # passed through

    def process_request_thread(self, request: object, client_address: object) -> None:
        with self._room:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]  # passed through

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "lamina-cache"
    sys_version = ""
    timeout = _PATIENCE
    disable_nagle_algorithm = True
    api: Callable[[CacheRequest], CacheReply]

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: paths are keys, and tokens stand in headers."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        text = self.headers.get("Content-Length", "")
        length = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
        if self.headers.get("Transfer-Encoding") or (text and length is None):
            length = None
            self.close_connection = True
        left = length or 0

        def body() -> Iterator[bytes]:
            nonlocal left
            while left:
                piece = self.rfile.read(min(left, _PIECE))
                if not piece:
                    raise ConnectionResetError("the client hung up")
                left -= len(piece)
                yield piece

        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        request = CacheRequest(self.command, parts.path, query, self.headers.get("Authorization", ""), length, body, self._start())
        reply = type(self).api(request)
        if left:
            self.close_connection = True  # what was not read would be taken for the next request
        self._answer(reply)

    def _start(self) -> int:
        """Of `bytes=START-`; every other form is not understood, which means all bytes."""
        text = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0

    def _answer(self, reply: CacheReply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("X-Lamina-Cache", "1")
        if reply.content_range:
            self.send_header("Content-Range", reply.content_range)
        if self.close_connection:
            self.send_header("Connection", "close")
        if reply.length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(reply.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for piece in reply.body:
                if reply.length is not None:
                    self.wfile.write(piece)
                elif piece:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if reply.length is None:
                self.wfile.write(b"0\r\n\r\n")
        except Exception:
            # The head is out: hanging up is the only way left to say that this is not all.
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(1)
