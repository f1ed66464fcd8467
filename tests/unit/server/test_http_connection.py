"""The connection at the level of bytes, over a socket pair."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lamina.server.errors import ClientGone
from lamina.server.http.connection import Connection
from lamina.server.http.messages import Answer, Duplex, Hijack, Outlet, Reply, Request, Rows, Stream, answer

FIXED = (("Server", "test"),)


class Talk:
    """A client's end of a connection that `serve` answers."""

    def __init__(self, serve: Callable[[Request], Reply]) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(90)

        async def main() -> None:
            reader, writer = await asyncio.open_connection(sock=theirs)
            with ThreadPoolExecutor(8) as pool:
                await Connection(reader, writer, serve, pool, FIXED).run()

        self._thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, mark: bytes) -> bytes:
        found = b""
        while mark not in found:
            data = self.socket.recv(65536)
            assert data, found
            found += data
        return found

    def rest(self) -> bytes:
        found = b""
        while data := self.socket.recv(65536):
            found += data
        return found

    def ended(self) -> bool:
        """Whether the server's side has let go of everything."""
        self._thread.join(90)
        return not self._thread.is_alive()


def echo(request: Request) -> Reply:
    return answer({"path": request.path, "body": request.body.read().decode(), "q": request.query.get("q")})


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def test_requests_sent_at_once_are_answered_in_order() -> None:
    talk = Talk(echo)
    talk.send(get("/one") + get("/two?q=%41", "Connection: close\r\n"))
    found = talk.rest()
    assert found.index(b'"/one"') < found.index(b'"/two"')
    assert b'"q":"A"' in found
    assert found.count(b"server: test") + found.count(b"Server: test") == 2
    assert talk.ended()


def test_head_has_the_head_alone() -> None:
    talk = Talk(echo)
    talk.send(b"HEAD /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = talk.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_bodies_of_any_size(framing: str) -> None:
    def length(request: Request) -> Reply:
        total = 0
        while data := request.body.read(65536):
            total += len(data)
        return answer(total)

    talk = Talk(length)
    size = 3 << 20
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    if framing == "length":
        talk.send(head + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
    else:
        talk.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + bytes(65536) + b"\r\n") * (size >> 16) + b"0\r\n\r\n")
    assert talk.rest().endswith(b"\r\n\r\n%d\n" % size)


def test_expect_100_continue_is_answered() -> None:
    talk = Talk(echo)
    talk.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
    assert talk.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100")
    talk.send(b"hi")
    assert b'"body":"hi"' in talk.rest()


def test_a_refusal_comes_while_the_body_is_still_sent() -> None:
    talk = Talk(lambda request: answer({"message": "no"}, 400))
    talk.send(b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed() -> None:
        try:
            for _ in range(100):
                talk.send(b"10000\r\n" + bytes(65536) + b"\r\n")
            talk.send(b"0\r\n\r\n")
        except OSError:
            pass

    threading.Thread(target=feed, daemon=True).start()
    assert b'{"message":"no"}' in talk.until(b"}")
    talk.rest()
    talk.socket.close()
    assert talk.ended()


def test_a_client_that_leaves_in_the_middle_of_its_body_frees_the_handler() -> None:
    seen: list[str] = []

    def read(request: Request) -> Reply:
        try:
            request.body.read()
        except ClientGone:
            seen.append("gone")
        return answer(None)

    talk = Talk(read)
    talk.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nhalf")
    talk.socket.close()
    assert talk.ended()
    assert seen == ["gone"]


def test_bytes_before_the_101_and_after_the_half_close() -> None:
    def conversation(duplex: Duplex) -> None:
        got = b""
        while data := duplex.read():
            got += data
        duplex.write(b"got " + got)

    talk = Talk(lambda request: Hijack(conversation))
    talk.send(b"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\nearly ")
    head = talk.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert b"Upgrade: tcp" in head
    talk.send(b"late")
    talk.socket.shutdown(socket.SHUT_WR)
    assert talk.rest() == b"got early late"
    assert talk.ended()


def test_without_upgrade_it_is_a_200_without_any_length() -> None:
    def conversation(duplex: Duplex) -> None:
        duplex.write(b"raw")

    talk = Talk(lambda request: Hijack(conversation))
    talk.send(b"POST /attach HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = talk.rest().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length" not in head.lower()
    assert b"transfer-encoding" not in head.lower()
    assert body == b"raw"


def test_a_stream_s_head_comes_before_its_first_byte_and_a_client_s_leaving_is_told() -> None:
    told = threading.Event()

    def run(out: Outlet) -> None:
        out.on_gone(told.set)
        assert told.wait(90)

    talk = Talk(lambda request: Stream(run))
    talk.send(get("/stream"))
    assert b"chunked" in talk.until(b"\r\n\r\n")
    talk.socket.close()
    assert told.wait(90)
    assert talk.ended()


def test_rows_come_from_any_thread_and_end() -> None:
    pushes: list[Callable[[bytes], None]] = []
    withdrawn = threading.Event()

    def subscribe(push: Callable[[bytes], None], end: Callable[[], None]) -> Callable[[], None]:
        pushes.append(push)

        def work() -> None:
            push(b"one\n")
            push(b"two\n")
            end()

        threading.Thread(target=work).start()
        return withdrawn.set

    talk = Talk(lambda request: Rows(subscribe))
    talk.send(get("/events"))
    found = talk.until(b"0\r\n\r\n")
    assert b"one\n" in found
    assert b"two\n" in found
    assert withdrawn.wait(90)


@pytest.mark.parametrize(
    "raw",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * (1 << 20) + b"\r\n\r\n"],
    ids=["nonsense", "no host", "a header of 1 MiB"],
)
def test_what_is_no_request_is_refused_in_one_line(raw: bytes) -> None:
    talk = Talk(echo)
    try:
        talk.send(raw)
    except OSError:
        pass  # it was refused before all of it was sent
    found = talk.rest()
    assert found.startswith(b"HTTP/1.1 4")
    assert "message" in json.loads(found.rpartition(b"\r\n\r\n")[2])
    talk.socket.close()
    assert talk.ended()


def test_an_answer_without_a_body() -> None:
    talk = Talk(lambda request: Answer(204, content_type=""))
    talk.send(get("/x", "Connection: close\r\n"))
    assert talk.rest().startswith(b"HTTP/1.1 204")


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("cut", [0, 1, 3, len(_PREFACE) - 1, len(_PREFACE), len(_PREFACE) + 2])
def test_a_client_that_begins_with_http2_is_handed_on_without_a_word(cut: int) -> None:
    def serve(request: Request) -> Reply:
        assert (request.method, request.path, request.upgrade) == ("PRI", "*", "h2c")

        def talk(duplex: Duplex) -> None:
            found = b""
            while not found.endswith(b"end"):
                found += duplex.read()
            duplex.write(b"got " + found)

        return Hijack(talk)

    talk = Talk(serve)
    sent = _PREFACE + b"frames end"
    talk.send(sent[:cut])
    talk.send(sent[cut:])
    assert talk.until(b"end") == b"got " + sent
    talk.socket.close()
    assert talk.ended()


def test_who_does_not_take_http2_closes() -> None:
    talk = Talk(lambda request: answer({"message": "no"}, 404))
    talk.send(_PREFACE)
    assert talk.rest() == b""
    assert talk.ended()


def test_the_beginning_of_http2_alone_is_an_end_or_a_bad_request() -> None:
    talk = Talk(echo)
    talk.send(_PREFACE[:18] + b"XX\r\n\r\n")
    assert b"illegal request line" in talk.rest()
    talk = Talk(echo)
    talk.send(b"P")
    talk.socket.shutdown(socket.SHUT_WR)
    talk.rest()
    assert talk.ended()


def test_the_values_of_a_header_that_comes_again_are_a_list() -> None:
    talk = Talk(lambda request: answer(request.headers["x-many"]))
    talk.send(get("/", "X-Many: a\r\nX-Many: b, c\r\nConnection: close\r\n"))
    assert talk.rest().endswith(b'"a, b, c"\n')
