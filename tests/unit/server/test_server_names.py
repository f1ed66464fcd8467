"""Names of containers on the wire (RFC 1035), against messages made by hand and over sockets on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from lamina.server import names
from lamina.server.names import Names, Question, local, wire_name

ASKER, WEB = IPv4Address("172.18.0.2"), IPv4Address("172.18.0.3")
A, PTR, AAAA, MX = 1, 12, 28, 15


def message(name: str, kind: int = A, number: int = 0x1234, flags: int = 0x0100) -> bytes:
    return struct.pack(">HHHHHH", number, flags, 1, 0, 0, 0) + wire_name(name) + struct.pack(">HH", kind, 1)


def lookup(asker: IPv4Address, name: str) -> list[IPv4Address] | None:
    return [WEB] if name == "web" else None


def reverse(asker: IPv4Address, address: IPv4Address) -> str | None:
    return "web.front" if address == WEB else None


def test_an_address_is_answered_with_the_question_and_without_a_time_to_live() -> None:
    reply = local(Question(message("WEB")), ASKER, lookup, reverse)
    assert reply == struct.pack(">HHHHHH", 0x1234, 0x8180, 1, 1, 0, 0) + wire_name("WEB") + struct.pack(">HH", A, 1) + (
        b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 0, 4) + WEB.packed
    )


@pytest.mark.parametrize("kind", [AAAA, MX])
def test_a_name_of_ours_has_no_other_records_but_is_there(kind: int) -> None:
    reply = local(Question(message("web", kind)), ASKER, lookup, reverse)
    assert reply is not None
    assert struct.unpack_from(">HHHHHH", reply) == (0x1234, 0x8180, 1, 0, 0, 0)


def test_an_address_has_a_name() -> None:
    reply = local(Question(message("3.0.18.172.in-addr.arpa", PTR)), ASKER, lookup, reverse)
    assert reply is not None
    assert reply.endswith(wire_name("web.front"))


@pytest.mark.parametrize(("name", "kind"), [("example.org", A), ("9.9.9.9.in-addr.arpa", PTR), ("x.in-addr.arpa", PTR), ("", A)])
def test_what_is_not_ours_is_for_others(name: str, kind: int) -> None:
    assert local(Question(message(name, kind)), ASKER, lookup, reverse) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 11, message("web")[:-1], message("web")[:-6], message("web", flags=0x8000), b"\0" * 12,
        struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x3fabc",
    ],
)  # fmt: skip
def test_what_is_no_question_is_told_from_one(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the one that the server passes over
        Question(data)


@pytest.fixture
def doors() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(a name server's door, a client that asks there)."""
    with socket.socket(type=socket.SOCK_DGRAM) as door, socket.socket(type=socket.SOCK_DGRAM) as client:
        door.bind(("127.0.0.1", 0))
        door.setblocking(False)
        client.connect(door.getsockname())
        client.settimeout(90)
        yield door, client


def test_a_server_answers_passes_over_rubbish_and_says_when_nobody_knows(doors: tuple[socket.socket, socket.socket]) -> None:
    door, client = doors
    server = Names(lookup, reverse, lambda asker: ())
    try:
        server.serve(door)
        client.send(b"rubbish")
        client.send(message("web", number=1))
        assert client.recv(512)[:2] == b"\0\1"
        client.send(message("elsewhere.example", number=2))
        assert struct.unpack_from(">HH", client.recv(512)) == (2, 0x8183)
    finally:
        server.leave(door)
        server.close()


def test_other_names_are_asked_of_the_next_server_when_one_is_silent(
    doors: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    door, client = doors
    asked: list[str] = []

    class Upstream(socket.socket):
        """Where the first server is silent, and the second one answers."""

        def connect(self, place: object, /) -> None:
            assert isinstance(place, tuple)
            asked.append(place[0])
            monkeypatch.setattr(names, "_PATIENCE", 0.05 if place[0] == "192.0.2.1" else 90.0)  # read when the question is sent
            super().connect(("127.0.0.1", (silent if place[0] == "192.0.2.1" else answering).getsockname()[1]))

    with socket.socket(type=socket.SOCK_DGRAM) as silent, socket.socket(type=socket.SOCK_DGRAM) as answering:
        silent.bind(("127.0.0.1", 0))
        answering.bind(("127.0.0.1", 0))
        answering.settimeout(90)
        monkeypatch.setattr("lamina.server.names.socket.socket", Upstream)
        server = Names(lookup, reverse, lambda asker: ["192.0.2.1", "192.0.2.2"])
        try:
            server.serve(door)
            client.send(message("example.org"))
            data, place = answering.recvfrom(512)
            assert data == message("example.org")
            answering.sendto(data[:2] + b"answer", place)
            assert client.recv(512) == data[:2] + b"answer"
            assert asked == ["192.0.2.1", "192.0.2.2"]
        finally:
            server.leave(door)
            server.close()


def test_questions_over_tcp_are_answered_one_after_the_other() -> None:
    server = Names(lookup, reverse, lambda asker: ())
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname(), 90) as client:
        ours, _ = listener.accept()
        with ours:
            for number in (1, 2):
                data = message("web" if number == 1 else "elsewhere.example", number=number)
                client.sendall(struct.pack(">H", len(data)) + data)
            client.sendall(b"\x00\x05rubbi")
            client.shutdown(socket.SHUT_WR)
            server.by_tcp(ours)
        data = b""
        while piece := client.recv(4096):
            data += piece
    server.close()
    first = struct.unpack_from(">H", data)[0]
    assert struct.unpack_from(">HH", data, 2) == (1, 0x8180)
    assert struct.unpack_from(">HH", data, 4 + first) == (2, 0x8182)
