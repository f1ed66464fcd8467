"""The way out of a step's own network."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from lamina.pipelines.run.outward import PORT, Outward
from lamina.sandbox.networks import SharedNetwork, inside

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root here")]


@pytest.fixture
def network() -> Iterator[SharedNetwork]:
    made = SharedNetwork()
    yield made
    made.close()


@pytest.fixture
def echo() -> Iterator[tuple[int, list[bytes]]]:
    """A server outside that answers with what it got first; its port, and all that it got."""
    listener = socket.create_server(("127.0.0.1", 0))
    got: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                got.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], got
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def ask(network: SharedNetwork, request: bytes, more: bytes = b"", port: int = PORT) -> bytes:
    """What a program in that network is answered."""

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(request)
            answer = connection.recv(4096)
            if more:
                connection.sendall(more)
            while data := connection.recv(4096):
                answer += data
            return answer

    return inside(network.path, talk)


def test_nothing_else_leads_out(network: SharedNetwork, echo: tuple[int, list[bytes]]) -> None:
    with pytest.raises(OSError, match="refused"):
        ask(network, b"x", port=echo[0])


def test_connect_passes_bytes_both_ways(network: SharedNetwork, echo: tuple[int, list[bytes]]) -> None:
    outward = Outward(network, {})
    answer = ask(network, f"CONNECT 127.0.0.1:{echo[0]} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"hello")
    outward.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"yes")
    assert echo[1] == [b"hello"]


def test_plain_http_is_asked_of_the_server_itself(network: SharedNetwork, echo: tuple[int, list[bytes]]) -> None:
    outward = Outward(network, {})
    answer = ask(network, f"GET http://127.0.0.1:{echo[0]}/a?b HTTP/1.1\r\nHost: h\r\nProxy-Connection: keep-alive\r\n\r\n".encode())
    outward.close()
    assert answer.endswith(b"yes")
    assert echo[1] == [b"GET /a?b HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n"]


def test_the_machines_own_proxy_is_used(network: SharedNetwork, echo: tuple[int, list[bytes]]) -> None:
    outward = Outward(network, {"https_proxy": f"http://me:pw@127.0.0.1:{echo[0]}"})
    assert ask(network, b"CONNECT far.example:443 HTTP/1.1\r\nProxy-Authorization: mine\r\n\r\n").endswith(b"yes")
    outward.close()
    assert echo[1] == [b"CONNECT far.example:443 HTTP/1.1\r\nProxy-Authorization: Basic bWU6cHc=\r\n\r\n"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", b"502"),
        (b"GET ftp://x/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    ],
)
def test_what_cannot_be_is_told(network: SharedNetwork, request_: bytes, code: bytes) -> None:
    outward = Outward(network, {})
    assert ask(network, request_).startswith(b"HTTP/1.1 " + code)
    outward.close()


def test_nonsense_ends_the_connection(network: SharedNetwork) -> None:
    outward = Outward(network, {})
    assert ask(network, b"nonsense\r\n\r\n") == b""
    outward.close()
    outward.close()


def test_two_networks_have_the_same_ports(network: SharedNetwork) -> None:
    other = SharedNetwork()
    first, second = network.listen(5432), other.listen(5432)
    with pytest.raises(OSError, match="in use"):
        network.listen(5432)
    for one in (first, second, other):
        one.close()
