"""Networks of containers that nobody outside sees: one network namespace with a bridge for each network, a veth to each container. The machine's own
links, routes and rules are left alone, no privilege on the machine is needed, and all of it ends with the process that holds it.

What leads out goes to a listener in that namespace, which the owner of the switch serves from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import socket
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

import msgspec

from lamina.sandbox import netlink
from lamina.sandbox.protocols import SandboxSetupFailed

_NEWNET = 0x40000000
_TCP, _UDP = 6, 17
_Found = TypeVar("_Found")


class Bridge(msgspec.Struct, frozen=True):
    label: str
    interface: IPv4Interface  # of the gateway
    names: socket.socket  # udp, at the gateway's port 53
    leads_out: bool


class Held(msgspec.Struct, frozen=True):
    """What was kept of a switch: its namespace and its listener, ours from now on. `count`: no link was numbered so high."""

    namespace: int
    listener: socket.socket
    count: int


class Switch:
    """Thread-safe: a thread of its own lives in the namespace and does the work. SandboxSetupFailed where the kernel gives none."""

    def __init__(self, held: Held | None = None) -> None:
        """`held`: go on with the switch of an engine that has ended."""
        self._held = held
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._count = 0
        self._descriptor = -1
        self.why_closed = ""  # why nothing can lead out; "" when it can
        began: Future[None] = Future()
        threading.Thread(target=self._live, args=(began,), daemon=True, name="lamina-switch").start()
        try:
            began.result()
        except OSError as error:
            raise SandboxSetupFailed(
                f"containers cannot have networks here: {error.strerror}",
                hint="the kernel needs bridge and veth; --network none and host work",
            ) from error

    def _live(self, began: Future[None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            if self._held is not None:
                self._enter(self._held.namespace)
                self._descriptor = self._held.namespace
                self._links = netlink.Links()
                self.listener = self._held.listener
                self._count = self._held.count
            else:
                self._make()
        except BaseException as error:
            began.set_exception(error)
            return
        began.set_result(None)
        while (job := self._work.get()) is not None:
            act, future = job
            try:
                future.set_result(act())
            except BaseException as error:
                future.set_exception(error)
        self._links.close()

    def _make(self) -> None:
        self._unshare()
        self._descriptor = self._here()
        self._links = netlink.Links()
        self._links.up(1)
        for path, value in (("ipv4/ip_forward", "0"), ("ipv6/conf/default/disable_ipv6", "1"), ("bridge/bridge-nf-call-iptables", "0")):
            with contextlib.suppress(OSError):  # a kernel without that part
                _set(path, value)
        self._links.bridge("probe", b"\x02\x42\0\0\0\1")
        self._links.delete("probe")
        self.listener = socket.socket()
        self.listener.bind(("0.0.0.0", 0))
        self.listener.listen(512)

    def _inside(self, act: Callable[[], _Found]) -> _Found:
        future: Future[_Found] = Future()
        self._work.put((act, future))
        return future.result()

    def bridge(self, interface: IPv4Interface, *, leads_out: bool) -> Bridge:
        """A new network with this gateway. OSError."""

        def make() -> Bridge:
            self._count += 1
            label = f"br{self._count}"
            self._links.bridge(label, mac(interface))
            try:
                index = socket.if_nametoindex(label)
                self._links.address(index, interface)
                self._links.up(index)
                if leads_out:
                    self._lead_out(label, interface)
                names = _door(interface)
            except BaseException:
                self._links.delete(label)
                raise
            return Bridge(label, interface, names, leads_out)

        return self._inside(make)

    def adopt(self, label: str, interface: IPv4Interface, *, leads_out: bool) -> Bridge:
        """A bridge that the engine before has made. OSError."""

        def make() -> Bridge:
            socket.if_nametoindex(label)
            return Bridge(label, interface, _door(interface), leads_out)

        return self._inside(make)

    def clear(self, labels: Collection[str]) -> None:
        """Bridges of the engine before other than these go."""

        def act() -> None:
            for _, label in socket.if_nameindex():
                if label.startswith("br") and label not in labels:
                    self._links.delete(label)

        with contextlib.suppress(OSError):
            self._inside(act)

    @property
    def namespace_descriptor(self) -> int:
        """Who holds a copy of it, and of `listener`, keeps all that is connected as it is."""
        return self._descriptor

    def _lead_out(self, label: str, interface: IPv4Interface) -> None:
        port = self.listener.getsockname()[1]
        rules = [
            netlink.redirect(label, _TCP, port, outside=interface),
            netlink.redirect(label, _TCP, port, inside=interface),
            netlink.redirect(label, _UDP, 53, to_port=53, outside=interface),
        ]
        try:
            netlink.lead_in(rules)
        except OSError as error:
            self.why_closed = f"nothing leads out of containers' networks: the kernel has no nf_tables here ({error.strerror})"

    def remove(self, bridge: Bridge) -> None:
        bridge.names.close()
        with contextlib.suppress(OSError):
            self._inside(lambda: self._links.delete(bridge.label))

    def namespace(self) -> int:
        """A descriptor of a new network with loopback. The caller closes it; it lives on until the last process in it has ended."""

        def make() -> int:
            try:
                self._unshare()
                found = self._here()
                with contextlib.suppress(OSError):
                    _set("ipv6/conf/default/disable_ipv6", "1")
                _in_a_moment(lambda links: links.up(1))
            finally:
                self._enter(self._descriptor)
            return found

        return self._inside(make)

    def plug(self, namespace: int, bridge: Bridge, name: str, interface: IPv4Interface, *, routed: bool) -> str:
        """Connect a namespace: its link `name` has the address; `routed`: the default route. The label for `unplug`. OSError."""

        def make() -> str:
            self._count += 1
            label = f"v{self._count}"
            index = socket.if_nametoindex(bridge.label)
            self._links.pair(label, index, name, mac(interface), namespace)
            try:
                self._enter(namespace)

                def configure(links: netlink.Links) -> None:
                    inner = socket.if_nametoindex(name)
                    links.address(inner, interface)
                    links.up(inner)
                    if routed:
                        links.default_route(bridge.interface.ip, inner)

                _in_a_moment(configure)
            finally:
                self._enter(self._descriptor)
            return label

        return self._inside(make)

    def route(self, namespace: int, name: str, gateway: IPv4Address) -> None:
        """The default route of a namespace that has none any more. OSError."""

        def make() -> None:
            try:
                self._enter(namespace)
                _in_a_moment(lambda links: links.default_route(gateway, socket.if_nametoindex(name)))
            finally:
                self._enter(self._descriptor)

        self._inside(make)

    def unplug(self, label: str) -> None:
        with contextlib.suppress(OSError):
            self._inside(lambda: self._links.delete(label))

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket that reaches all networks of the switch."""
        return self._inside(lambda: socket.socket(socket.AF_INET, kind))

    def close(self) -> None:
        """No container may be plugged any more."""
        if self._descriptor >= 0:
            self._work.put(None)
            self.listener.close()
            os.close(self._descriptor)
            self._descriptor = -1

    # On the thread

    def _unshare(self) -> None:
        if self._libc.unshare(_NEWNET):
            raise _error()

    def _enter(self, descriptor: int) -> None:
        if self._libc.setns(descriptor, _NEWNET):
            raise _error()

    def _here(self) -> int:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _door(interface: IPv4Interface) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        found.bind((str(interface.ip), 53))
        found.setblocking(False)
    except BaseException:
        found.close()
        raise
    return found


def mac(interface: IPv4Interface) -> bytes:
    """docker's: made of the address."""
    return b"\x02\x42" + interface.ip.packed


def _in_a_moment(act: Callable[[netlink.Links], None]) -> None:
    links = netlink.Links()
    try:
        act(links)
    finally:
        links.close()


def _set(path: str, value: str) -> None:
    with open(f"/proc/sys/net/{path}", "w") as file:
        file.write(value)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
