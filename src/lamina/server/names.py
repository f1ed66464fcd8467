"""The name server of containers' networks: names and aliases of containers, all else is asked of the machine's own name servers (RFC 1035)."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

_HEAD = struct.Struct(">HHHHHH")
_ANSWER, _RECURSION = 0x8000, 0x0080
_FAILED, _NO_SUCH_NAME = 2, 3
_A, _PTR, _AAAA = 1, 12, 28
_PATIENCE = 4.0  # seconds for a name server of the machine; then the next one
_MOST = 512  # questions under way
_RESOLV_CONF = Path("/etc/resolv.conf")

Lookup = Callable[[IPv4Address, str], list[IPv4Address] | None]
"""(who asks, a name in lower case) -> addresses; None: not ours."""
Reverse = Callable[[IPv4Address, IPv4Address], str | None]
"""(who asks, an address) -> its name."""
Servers = Callable[[IPv4Address], Sequence[str]]
"""(who asks) -> the name servers that answer for everything else; none: nobody is asked."""


class Question:
    """The first question of a message. ValueError for what is none."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEAD.size:
            raise ValueError("too short")
        self.number, self.flags, count, *_ = _HEAD.unpack_from(data)
        if self.flags & _ANSWER or count < 1:
            raise ValueError("no question")
        labels: list[bytes] = []
        at = _HEAD.size
        while length := data[at] if at < len(data) else -1:
            if length < 0 or length > 63 or at + 1 + length >= len(data):
                raise ValueError("no name")
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
        if at + 5 > len(data):
            raise ValueError("no type")
        self.type, self.kind = struct.unpack_from(">HH", data, at + 1)
        self.raw = data[_HEAD.size : at + 5]
        self.name = b".".join(labels).decode("ascii", "replace").lower()

    def answer(self, records: Sequence[bytes] = (), code: int = 0) -> bytes:
        """A message with these values of the type that was asked for. Nobody is to remember them."""
        flags = _ANSWER | _RECURSION | (self.flags & 0x7900) | code
        body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", self.type, 1, 0, len(value)) + value for value in records)
        return _HEAD.pack(self.number, flags, 1, len(records), 0, 0) + self.raw + body


def wire_name(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode("ascii", "replace") for part in name.split(".") if 0 < len(part) < 64) + b"\0"


def local(question: Question, asker: IPv4Address, lookup: Lookup, reverse: Reverse) -> bytes | None:
    """The answer if it is about our containers."""
    if question.type == _PTR and question.name.endswith(".in-addr.arpa"):
        with contextlib.suppress(ValueError):
            address = IPv4Address(".".join(reversed(question.name.removesuffix(".in-addr.arpa").split("."))))
            name = reverse(asker, address)
            return None if name is None else question.answer([wire_name(name)])
        return None
    found = lookup(asker, question.name)
    if found is None:
        return None
    return question.answer([address.packed for address in found] if question.type == _A else [])


class Names:
    """One thread for all networks."""

    def __init__(self, lookup: Lookup, reverse: Reverse, servers: Servers) -> None:
        self._lookup, self._reverse, self._servers = lookup, reverse, servers
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._todo: list[Callable[[], None]] = []
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._read, selectors.EVENT_READ)
        self._asked: dict[socket.socket, _Asked] = {}
        self._closed = False
        threading.Thread(target=self._run, daemon=True, name="lamina-names").start()

    def serve(self, door: socket.socket) -> None:
        def act() -> None:
            self._selector.register(door, selectors.EVENT_READ, door)

        self._later(act)

    def leave(self, door: socket.socket) -> None:
        """Returns when the socket is not used any more."""
        done = threading.Event()

        def act() -> None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(door)
            done.set()

        self._later(act)
        done.wait(5.0)

    def close(self) -> None:
        self._closed = True
        self._later(lambda: None)

    def _later(self, act: Callable[[], None]) -> None:
        with self._lock:
            self._todo.append(act)
        with contextlib.suppress(OSError):
            os.write(self._write, b"x")

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(min(1.0, _PATIENCE) if self._asked else None):
                if key.fd == self._read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._read, 4096)
                elif isinstance(key.data, _Asked):
                    self._heard(key.data)
                else:
                    self._question(key.data)
            with self._lock:
                todo, self._todo = self._todo, []
            for act in todo:
                act()
            now = time.monotonic()
            for asked in [asked for asked in self._asked.values() if now > asked.until]:
                self._again(asked)
        for asked in list(self._asked.values()):
            self._drop(asked)
        self._selector.close()
        os.close(self._read)
        os.close(self._write)

    def _question(self, door: socket.socket) -> None:
        try:
            data, place = door.recvfrom(4096)
            question = Question(data)
        except (OSError, ValueError, IndexError):
            return
        asker = IPv4Address(place[0])
        reply = local(question, asker, self._lookup, self._reverse)
        if reply is None:
            asked = _Asked(door, place, data, question, list(self._servers(asker)))
            if len(self._asked) < _MOST:
                self._again(asked)
                return
            reply = question.answer(code=_FAILED)
        _send(door, reply, place)

    def _again(self, asked: _Asked) -> None:
        """The next name server, or the end."""
        self._drop(asked)
        while asked.servers:
            server = asked.servers.pop(0)
            talk = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
            try:
                talk.setblocking(False)
                talk.connect((server, 53))
                talk.send(asked.data)
            except OSError:
                talk.close()
                continue
            asked.socket, asked.until = talk, time.monotonic() + _PATIENCE
            self._asked[talk] = asked
            self._selector.register(talk, selectors.EVENT_READ, asked)
            return
        _send(asked.door, asked.question.answer(code=_NO_SUCH_NAME if not asked.tried else _FAILED), asked.place)

    def _heard(self, asked: _Asked) -> None:
        if asked.socket is None:
            return
        try:
            reply = asked.socket.recv(1 << 16)
        except OSError:
            self._again(asked)
            return
        if reply[:2] == asked.data[:2]:
            self._drop(asked)
            _send(asked.door, reply, asked.place)

    def _drop(self, asked: _Asked) -> None:
        if asked.socket is not None:
            del self._asked[asked.socket]
            self._selector.unregister(asked.socket)
            asked.socket.close()
            asked.socket = None

    def by_tcp(self, connection: socket.socket) -> None:
        """Questions over TCP, one after the other; until the client has enough."""
        asker = IPv4Address(connection.getpeername()[0])
        with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
            while data := _message(connection):
                question = Question(data)
                reply = local(question, asker, self._lookup, self._reverse) or _ask_by_tcp(data, self._servers(asker))
                reply = reply or question.answer(code=_FAILED)
                connection.sendall(struct.pack(">H", len(reply)) + reply)


class _Asked:
    """A question that a name server of the machine has."""

    def __init__(self, door: socket.socket, place: tuple[str, int], data: bytes, question: Question, servers: list[str]) -> None:
        self.door, self.place, self.data, self.question, self.servers = door, place, data, question, servers
        self.tried = bool(servers)
        self.socket: socket.socket | None = None
        self.until = 0.0


def _send(door: socket.socket, data: bytes, place: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        door.sendto(data, place)


def _message(connection: socket.socket) -> bytes:
    head = _exactly(connection, 2)
    return _exactly(connection, struct.unpack(">H", head)[0]) if head else b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data if len(data) == count else b""


def _ask_by_tcp(data: bytes, servers: Sequence[str]) -> bytes:
    for server in servers:
        with contextlib.suppress(OSError, struct.error), socket.create_connection((server, 53), _PATIENCE) as connection:
            connection.sendall(struct.pack(">H", len(data)) + data)
            if reply := _message(connection):
                return reply
    return b""


def machine_servers() -> list[str]:
    """Of /etc/resolv.conf."""
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [words[1].partition("%")[0] for line in lines if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]
