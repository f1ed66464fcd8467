"""A way to a server that breaks where a test says: it passes requests on, writes down everything it got, and does one thing wrong."""

from __future__ import annotations

import http.client
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["status", "cut", "mute", "hang", "gone", "redirect", "trickle", "long"]


@dataclass(frozen=True, slots=True)
class Wrong:
    """What happens to request number `at` (from 0), or with `on` to that one and all after it.

    status  `value` is the answer, the server is not asked          cut    the answer's body ends after `value` bytes
    mute    it is carried out, the connection closed in place of an answer   hang   nothing comes, the connection stays
    gone    the listener and all connections close, for good        redirect  307 to the same path at `place`
    trickle a byte every hundredth of a second                      long   `value` more bytes than Content-Length says are sent
    """

    at: int
    kind: Kind
    value: int = 0
    on: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """`body`: what the client sent. `size`: bytes of the answer's body, as the server gave it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    size: int

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status}"

    @property
    def text(self) -> str:
        """Everything that was received, for a search for secrets."""
        return f"{self.path}\n{self.headers}\n{self.body.decode('latin-1')}"


class BreakingWay:
    """Listens on 127.0.0.1 inside `with` and stands for the server at `upstream` ("127.0.0.1:PORT"), also in the addresses that it names."""

    def __init__(self, upstream: str, wrong: Wrong | None = None) -> None:
        self.upstream = upstream
        self.wrong = wrong
        self.seen: list[Sight] = []
        self.count = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> BreakingWay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody is answered any more; a new connection is refused."""
        self.ended.set()
        with self.lock:
            connections = list(self._connections)
        for one in (self._listener, *connections):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._listener.close()

    def text(self) -> str:
        return "\n".join(sight.text for sight in self.seen)

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()

    def _serve(self, connection: socket.socket, address: object) -> None:
        way = self

        class Handler(_Handler):
            owner = way

        try:
            Handler(connection, address, None)  # type: ignore[arg-type]  # it never looks at its server
        except OSError:
            pass
        finally:
            with self.lock:
                self._connections.discard(connection)
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: BreakingWay

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.owner
        body = self._body()
        with owner.lock:
            number, owner.count = owner.count, owner.count + 1
        wrong = owner.wrong
        if wrong is not None and not (number == wrong.at or (wrong.on and number > wrong.at)):
            wrong = None
        kind = wrong.kind if wrong else ""
        if kind in ("status", "redirect", "hang", "gone"):
            assert wrong is not None
            self._note(body, wrong.value, 0)
            self._instead(wrong)
            return
        status, headers, data = self._forward(body)
        self._note(body, status, len(data))
        if kind == "mute":
            self.close_connection = True
            return
        extra = bytes(wrong.value) if wrong is not None and kind == "long" else b""
        self._head(status, headers, None if "Content-Length" in headers else len(data))
        if self.command == "HEAD":
            return
        if wrong is not None and kind == "cut" and wrong.value < len(data):
            self.wfile.write(data[: wrong.value])
            self.close_connection = True
        elif kind == "trickle":
            for at in range(len(data)):
                self.wfile.write(data[at : at + 1])
                if owner.ended.wait(0.01):
                    return
        else:
            self.wfile.write(data + extra)
            self.close_connection = self.close_connection or bool(extra)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _instead(self, wrong: Wrong) -> None:
        owner = self.owner
        if wrong.kind == "gone":
            owner.close()
            self.close_connection = True
        elif wrong.kind == "hang":
            owner.ended.wait()
            self.close_connection = True
        elif wrong.kind == "redirect":
            self._head(307, {"Location": wrong.place + self.path}, 0)
        else:
            self._head(wrong.value, {}, 0)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = self.owner.upstream
        connection = http.client.HTTPConnection(upstream, timeout=30)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection", "transfer-encoding")
            }
            if body or self.command in ("POST", "PUT", "PATCH"):
                headers["Content-Length"] = str(len(body))
            # A signature of AWS's kind is over the host that the client saw; the servers of the tests do not look at it.
            path = urlsplit(self.path).path + (
                f"?{urlsplit(self.path).query}" if "?" in self.path else ""
            )  # as a proxy it got a whole address
            connection.request(self.command, path, body or None, headers)
            answer = connection.getresponse()
            data = answer.read()
            found = {
                name: value.replace(upstream, self.owner.host)
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "server", "date")
            }
            found = {"Content-Length" if name.lower() == "content-length" else name: value for name, value in found.items()}
            return answer.status, found, data
        finally:
            connection.close()

    def _note(self, body: bytes, status: int, size: int) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.owner.lock:
            self.owner.seen.append(Sight(self.command, self.path, headers, body, status, size))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return pieces

    def _head(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        if length is not None and status not in (204, 304):
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def recorder(status: int = 404) -> BreakingWay:
    """A host that answers everything alike and writes down what it got: where a redirect leads to."""
    return BreakingWay("", Wrong(0, "status", status, on=True))
