"""Links, addresses, routes and two kinds of rules, asked for over netlink: no program of the machine is needed. All calls act on the network that
the calling thread is in when the object is made. Sources: linux/rtnetlink.h, if_link.h, netfilter/nf_tables.h."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

_ROUTE, _NETFILTER = 0, 12
_REQUEST, _ACK, _CREATE, _EXCL = 1, 4, 0x400, 0x200
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_ERROR = 2
_NESTED = 0x8000
_ADDRESS, _IFNAME, _MASTER, _LINKINFO, _NET_NS_FD = 1, 3, 10, 18, 28
_UP = 1


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def name(text: str) -> bytes:
    return text.encode() + b"\0"


class Links:
    """rtnetlink. Not for two threads at once. OSError with the kernel's reason."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE)
        self._count = 0

    def close(self) -> None:
        self._socket.close()

    def bridge(self, label: str, mac: bytes) -> None:
        """The address is fixed: else it would be the lowest one of what is connected, and change for its neighbours when that goes."""
        self._ask(
            _NEWLINK,
            _CREATE | _EXCL,
            _link() + attribute(_IFNAME, name(label)) + attribute(_ADDRESS, mac) + nested(_LINKINFO, attribute(1, b"bridge")),
        )

    def pair(self, label: str, master: int, other: str, mac: bytes, namespace: int) -> None:
        """A veth: `label` here, below the bridge with the index `master` and up; `other` in the network of the descriptor `namespace`."""
        peer = _link() + attribute(_IFNAME, name(other)) + attribute(_ADDRESS, mac) + attribute(_NET_NS_FD, struct.pack("=i", namespace))
        info = nested(_LINKINFO, attribute(1, b"veth"), nested(2, nested(1, peer)))
        self._ask(
            _NEWLINK,
            _CREATE | _EXCL,
            _link(flags=_UP) + attribute(_IFNAME, name(label)) + attribute(_MASTER, struct.pack("=I", master)) + info,
        )

    def up(self, index: int) -> None:
        self._ask(_NEWLINK, 0, _link(index, _UP))

    def delete(self, label: str) -> None:
        self._ask(_DELLINK, 0, _link() + attribute(_IFNAME, name(label)))

    def address(self, index: int, interface: IPv4Interface) -> None:
        packed = interface.ip.packed
        head = struct.pack("=BBBBI", socket.AF_INET, interface.network.prefixlen, 0, 0, index)
        broadcast = attribute(4, interface.network.broadcast_address.packed)
        self._ask(_NEWADDR, _CREATE | _EXCL, head + attribute(2, packed) + attribute(1, packed) + broadcast)

    def default_route(self, gateway: IPv4Address, index: int) -> None:
        head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
        self._ask(_NEWROUTE, _CREATE | _EXCL, head + attribute(5, gateway.packed) + attribute(4, struct.pack("=I", index)))

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._count += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, self._count, 0) + body)
        _answer(self._socket.recv(1 << 16))


def _link(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _answer(data: bytes) -> None:
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if kind == _ERROR:
            number = -struct.unpack_from("=i", data, 16)[0]
            if number:
                raise OSError(number, os.strerror(number))
        data = data[max(16, (length + 3) & ~3) :]


# Rules: a nat table with one chain. Traffic that comes in over a bridge and is not for its own network is led to a listener of ours.

_NFT, _BATCH_BEGIN, _BATCH_END = 10 << 8, 16, 17
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0, 3, 6
_TABLE, _CHAIN = "lamina", "in"
_META_L4PROTO, _META_IIFNAME = 16, 6
_EQUAL, _OTHER = 0, 1
_NETWORK, _TRANSPORT = 1, 2


def lead_in(rules: Sequence[bytes] = ()) -> None:
    """Make the table and its chain if they are not there, and append rules. OSError where the kernel has none of it."""
    table = attribute(1, name(_TABLE)) + attribute(2, struct.pack(">I", 0))
    hook = nested(4, attribute(1, struct.pack(">I", 0)), attribute(2, struct.pack(">i", -100)))
    chain = attribute(1, name(_TABLE)) + attribute(3, name(_CHAIN)) + hook + attribute(7, name("nat"))
    messages = [(_NEWTABLE, table), (_NEWCHAIN, chain)]
    messages += [(_NEWRULE, attribute(1, name(_TABLE)) + attribute(2, name(_CHAIN)) + rule) for rule in rules]
    parts = [_message(_BATCH_BEGIN, _REQUEST, 0, struct.pack(">BBH", 0, 0, 10))]
    for number, (kind, body) in enumerate(messages, 1):
        flags = _REQUEST | _ACK | _CREATE | (0x800 if kind == _NEWRULE else 0)  # 0x800: at the end
        parts.append(_message(_NFT | kind, flags, number, struct.pack(">BBH", socket.AF_INET, 0, 0) + body))
    parts.append(_message(_BATCH_END, _REQUEST, len(messages) + 1, struct.pack(">BBH", 0, 0, 10)))
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)) as talk:
        talk.settimeout(5.0)
        talk.send(b"".join(parts))
        got = 0
        while got < len(messages):
            data = talk.recv(1 << 16)
            _answer(data)
            while len(data) >= 16:
                got += 1
                data = data[max(16, (struct.unpack_from("=I", data)[0] + 3) & ~3) :]


def redirect(
    bridge: str, protocol: int, port: int, *, to_port: int = 0, inside: IPv4Interface | None = None, outside: IPv4Interface | None = None
) -> bytes:
    """A rule: what comes in over `bridge` by `protocol`, to the address of `inside` or to none of the network of `outside`, and to `to_port`
    (0: any), is led to our `port`."""
    steps = [
        _meta(_META_IIFNAME),
        _compare(_EQUAL, bridge.encode().ljust(16, b"\0")),
        _meta(_META_L4PROTO),
        _compare(_EQUAL, bytes([protocol])),
    ]
    if inside is not None:
        steps += [_payload(_NETWORK, 16, 4), _compare(_EQUAL, inside.ip.packed)]
    if outside is not None:
        mask = outside.netmask.packed
        bits = attribute(1, _REGISTER) + attribute(2, _REGISTER) + attribute(3, struct.pack(">I", 4))
        bits += nested(4, attribute(1, mask)) + nested(5, attribute(1, bytes(4)))
        steps += [_payload(_NETWORK, 16, 4), _step("bitwise", bits), _compare(_OTHER, outside.network.network_address.packed)]
    if to_port:
        steps += [_payload(_TRANSPORT, 2, 2), _compare(_EQUAL, struct.pack(">H", to_port))]
    steps.append(_step("immediate", attribute(1, _REGISTER) + nested(2, attribute(1, struct.pack(">H", port)))))
    steps.append(_step("redir", attribute(1, _REGISTER)))
    return nested(4, *steps)


_REGISTER = struct.pack(">I", 1)


def _step(kind: str, data: bytes) -> bytes:
    return nested(1, attribute(1, name(kind)), nested(2, data))


def _meta(key: int) -> bytes:
    return _step("meta", attribute(1, _REGISTER) + attribute(2, struct.pack(">I", key)))


def _compare(how: int, value: bytes) -> bytes:
    return _step("cmp", attribute(1, _REGISTER) + attribute(2, struct.pack(">I", how)) + nested(3, attribute(1, value)))


def _payload(base: int, offset: int, length: int) -> bytes:
    words = (1, base, offset, length)
    return _step("payload", b"".join(attribute(kind, struct.pack(">I", word)) for kind, word in enumerate(words, 1)))


def _message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body
