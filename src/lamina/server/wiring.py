"""Networks while containers run: links and addresses, names, ways out. Made with the first container that needs it, gone with the engine."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.sandbox.protocols import SandboxSetupFailed
from lamina.server.addresses import Addresses
from lamina.server.errors import ApiError

if TYPE_CHECKING:
    import socket

    from lamina.sandbox.switch import Bridge, Switch
    from lamina.server.containers.container import Container
    from lamina.server.names import Names
    from lamina.server.networks import Network, Networks
    from lamina.server.outward import Outward, Target


class Plug(msgspec.Struct, frozen=True):
    """A running container in a network."""

    id: str
    network: str
    label: str
    link: str  # inside
    interface: IPv4Interface
    gateway: str
    mac: str
    routed: bool  # the default route
    bridge: str = ""  # label and address of the network's bridge
    bridge_interface: str = ""

    def document(self) -> dict[str, str]:
        """For the next engine."""
        return {name: str(getattr(self, name)) for name in self.__struct_fields__}

    @staticmethod
    def read(document: Mapping[str, str]) -> Plug:
        return Plug(
            **{
                **document,
                "interface": IPv4Interface(document["interface"]),
                "routed": document["routed"] == "True",
            }  # type: ignore[arg-type]  # the others are texts
        )

    @property
    def address(self) -> str:
        return str(self.interface.ip)


class _Live:
    """A network with its bridge."""

    def __init__(self, network: Network, bridge: Bridge) -> None:
        self.network = network
        self.bridge = bridge
        self.addresses = Addresses(bridge.interface, IPv4Network(network.span) if network.span else None)


class Wiring:
    """Thread-safe. `containers` gives those of the engine, `networks` its networks."""

    def __init__(self, containers: Callable[[], list[Container]], networks: Callable[[], Networks]) -> None:
        self._containers = containers
        self._networks = networks
        self._lock = threading.RLock()
        self._live: dict[str, _Live] = {}
        self._switch: Switch | None = None
        self._names: Names | None = None
        self._outward: Outward | None = None
        self.refused = ""  # why there is no switch, once that is known

    def attach(self, container: Container) -> str:
        """Before a start: the file of a network namespace with all of the container's networks; "" = the sandbox makes one with loopback only.

        ApiError where the networks cannot be had; the predefined `bridge` is then loopback only.
        """
        wanted = [
            found for name in container.record.networks if (found := self._networks().named(name)) is not None and found.driver == "bridge"
        ]
        missing = [name for name in container.record.networks if self._networks().named(name) is None]
        if missing:
            raise ApiError(f"network {missing[0]} not found", 404)
        if not wanted:
            return ""
        try:
            switch = self._open()
        except SandboxSetupFailed as error:
            self.refused = error.message
            if all(network.predefined for network in wanted):
                return ""
            raise ApiError(error.message, hint=error.hint) from error
        container.network = switch.namespace()
        try:
            for network in wanted:
                self.connect(container, network, container.record.networks[network.name])
        except BaseException:
            self.detach(container)
            raise
        return f"/proc/{os.getpid()}/fd/{container.network}"

    def connect(self, container: Container, network: Network, settings: dict[str, Any]) -> None:
        """A container whose namespace is there joins a network. ApiError."""
        from lamina.sandbox.switch import mac

        if container.network < 0:
            raise ApiError(self.refused or f"container {container.name} has no network of its own", 403)
        with self._lock:
            live = self._bring_up(network)
            interface = live.addresses.take(str((settings.get("IPAMConfig") or {}).get("IPv4Address") or ""))
            taken = {plug.link for plug in container.plugs.values()}
            link = next(f"eth{number}" for number in range(256) if f"eth{number}" not in taken)
            routed = not network.internal and not any(plug.routed for plug in container.plugs.values())
        assert self._switch is not None
        try:
            label = self._switch.plug(container.network, live.bridge, link, interface, routed=routed)
        except OSError as error:
            live.addresses.give_back(interface.ip)
            raise ApiError(f"failed to create endpoint {container.name} on network {network.name}: {error.strerror}") from error
        gateway = "" if network.internal else str(live.bridge.interface.ip)
        container.plugs[network.name] = Plug(
            os.urandom(32).hex(), network.name, label, link, interface, gateway, mac(interface).hex(":"), routed, live.bridge.label,
            str(live.bridge.interface),
        )  # fmt: skip

    def held(self, container: Container) -> dict[str, int]:
        """By name, the descriptors that keep the container's networks while no engine is there; they stay ours."""
        if container.network < 0 or self._switch is None:
            return {}
        return {"switch": self._switch.namespace_descriptor, "outward": self._switch.listener.fileno()}

    def take_over(self, container: Container, plugs: Iterable[Mapping[str, str]], held: dict[str, int]) -> None:
        """Go on with a running container's networks, of which `held` is what the engine before got from `held`; what is used is taken out of it.
        Where this process may not enter them the container stays without: it reaches its neighbours, not us."""
        if container.process is None or "switch" not in held or "outward" not in held:
            return
        try:
            switch = self._go_on(held)
        except SandboxSetupFailed as error:
            self.refused = error.message
            return
        container.network = os.open(f"/proc/{container.process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for plug in map(Plug.read, plugs):
            network = self._networks().settle(plug.network, plug.bridge_interface)
            if network is None:
                continue
            with self._lock:
                live = self._live.get(network.name)
                if live is None:
                    try:
                        bridge = switch.adopt(plug.bridge, IPv4Interface(plug.bridge_interface), leads_out=not network.internal)
                    except OSError:
                        continue
                    live = self._live[network.name] = _Live(network, bridge)
                    assert self._names is not None
                    self._names.serve(bridge.names)
                with contextlib.suppress(ApiError):
                    live.addresses.take(plug.address)
            container.plugs[network.name] = plug

    def _go_on(self, held: dict[str, int]) -> Switch:
        import socket
        import time

        from lamina.sandbox.switch import Held, Switch

        with self._lock:
            if self._switch is None:
                found = Held(held.pop("switch"), socket.socket(fileno=held.pop("outward")), int(time.time()))
                try:
                    self._serve(Switch(found))
                except SandboxSetupFailed:
                    os.close(found.namespace)
                    found.listener.close()
                    raise
            assert self._switch is not None
            return self._switch

    def taken_over(self) -> None:
        """After the last `take_over`: what nobody uses goes."""
        with self._lock:
            if self._switch is not None:
                self._switch.clear({live.bridge.label for live in self._live.values()})

    def disconnect(self, container: Container, network: Network) -> None:
        plug = container.plugs.pop(network.name, None)
        if plug is not None and self._switch is not None:
            self._switch.unplug(plug.label)
            self._give_back(plug)
            if plug.routed:
                self._route(container)

    def _route(self, container: Container) -> None:
        """Out of one of the networks that are left."""
        for name, plug in container.plugs.items():
            if plug.gateway and self._switch is not None:
                self._switch.route(container.network, plug.link, IPv4Address(plug.gateway))
                container.plugs[name] = msgspec.structs.replace(plug, routed=True)
                return

    def detach(self, container: Container) -> None:
        """After its end. The links go with the namespace."""
        for plug in container.plugs.values():
            self._give_back(plug)
        container.plugs = {}
        if container.network >= 0:
            os.close(container.network)
            container.network = -1

    def _give_back(self, plug: Plug) -> None:
        with self._lock:
            live = self._live.get(plug.network)
            if live is not None:
                live.addresses.give_back(plug.interface.ip)

    def forget(self, network: Network) -> None:
        with self._lock:
            live = self._live.pop(network.name, None)
        if live is not None and self._switch is not None and self._names is not None:
            self._names.leave(live.bridge.names)
            self._switch.remove(live.bridge)

    def socket(self, kind: int) -> socket.socket:
        """One that reaches containers."""
        assert self._switch is not None
        return self._switch.socket(kind)

    def why_closed(self) -> str:
        """Why nothing leads out, where that is so."""
        return self._switch.why_closed if self._switch is not None else self.refused

    def close(self) -> None:
        with self._lock:
            for live in self._live.values():
                assert self._names is not None
                self._names.leave(live.bridge.names)
                live.bridge.names.close()
            if self._names is not None:
                self._names.close()
            if self._switch is not None:
                self._switch.close()

    def _open(self) -> Switch:
        with self._lock:
            if self._switch is None:
                if self.refused:
                    raise SandboxSetupFailed(self.refused)
                from lamina.sandbox.switch import Switch

                self._serve(Switch())
            assert self._switch is not None
            return self._switch

    def _serve(self, switch: Switch) -> None:
        from lamina.server.names import Names
        from lamina.server.outward import Outward

        self._switch = switch
        self._names = Names(self.lookup, self.reverse, self.servers)
        self._outward = Outward(switch.listener, self.where)

    def _bring_up(self, network: Network) -> _Live:
        """Under the lock."""
        live = self._live.get(network.name)
        if live is None or live.network.id != network.id:
            assert self._switch is not None
            assert self._names is not None
            try:
                bridge = self._switch.bridge(IPv4Interface(network.gateway), leads_out=not network.internal)
            except OSError as error:
                raise ApiError(f"the network {network.name} cannot be made here: {error.strerror}") from error
            live = self._live[network.name] = _Live(network, bridge)
            self._names.serve(bridge.names)
        return live

    # What the name server and the way out ask

    def _owner(self, address: IPv4Address) -> Container | None:
        text = str(address)
        return next((c for c in self._containers() if any(plug.address == text for plug in c.plugs.values())), None)

    def lookup(self, asker: IPv4Address, name: str) -> list[IPv4Address] | None:
        """Addresses of the containers that are called so in a network of the asker; the predefined bridge has no names, but links."""
        owner = self._owner(asker)
        if owner is None:
            return None
        host = name.rstrip(".")
        if host in ("host.docker.internal", "gateway.docker.internal"):
            gateway = next((plug.gateway for plug in owner.plugs.values() if plug.gateway), "")
            return [IPv4Address(gateway)] if gateway else None
        linked = {alias.lower(): target for target, alias in links(owner)}
        found: list[IPv4Address] = []
        for container in self._containers():
            for network in set(container.plugs) & set(owner.plugs):
                called = names_of(container, network) if network != "bridge" else []
                called += [f"{each}.{network}" for each in called]
                if linked.get(host) in (container.name, container.id, container.id[:12]) and host in linked:
                    called.append(host)
                if host in (each.lower() for each in called):
                    found.append(container.plugs[network].interface.ip)
        return found or None

    def reverse(self, asker: IPv4Address, address: IPv4Address) -> str | None:
        owner, found = self._owner(asker), self._owner(address)
        if owner is None or found is None:
            return None
        shared = next((name for name in owner.plugs if name in found.plugs and name != "bridge"), None)
        return f"{found.name}.{shared}" if shared else None

    def servers(self, asker: IPv4Address) -> Sequence[str]:
        """The container's --dns, else the machine's; nobody for one in internal networks only."""
        from lamina.server.names import machine_servers

        owner = self._owner(asker)
        if owner is None or not any(plug.gateway for plug in owner.plugs.values()):
            return ()
        return [str(each) for each in owner.record.host.get("Dns") or ()] or machine_servers()

    def where(self, address: IPv4Address, port: int) -> Target:
        """Where a connection to the outside leads; see outward.py. Networks are apart: there is no way from one to another."""
        from lamina.server.outward import own_address

        with self._lock:
            lives = list(self._live.values())
        for live in lives:
            if address in live.bridge.interface.network:
                if address != live.bridge.interface.ip:
                    return None
                if port == 53 and self._names is not None:
                    return self._names.by_tcp
                own = own_address()
                return (own, port) if own else None
        if address.is_loopback or address.is_multicast or address.is_unspecified:
            return None
        return str(address), port

    def hosts_for(self, container: Container) -> tuple[tuple[str, str], ...]:
        """(name, address) lines for /etc/hosts: its own name, and its links."""
        own = next((plug.address for plug in container.plugs.values()), "127.0.0.1")
        found = [(container.record.config["Hostname"], own)]
        for target, alias in links(container):
            other = next((c for c in self._containers() if target in (c.name, c.id, c.id[:12])), None)
            shared = [other.plugs[name].address for name in container.plugs if name in other.plugs] if other is not None else []
            if other is not None and shared:
                found += [(name, shared[0]) for name in dict.fromkeys((alias, other.record.config["Hostname"], other.name))]
        return tuple(found)

    def gateway_of(self, container: Container) -> str:
        """Also of networks that lead nowhere: the name server is there."""
        for name in container.plugs:
            with contextlib.suppress(KeyError):
                return str(self._live[name].bridge.interface.ip)
        return ""


def names_of(container: Container, network: str) -> list[str]:
    """What a container is called in a network."""
    aliases: Iterable[str] = container.record.networks.get(network, {}).get("Aliases") or ()
    return [container.name, container.id[:12], str(container.record.config["Hostname"]), *aliases]


def links(container: Container) -> list[tuple[str, str]]:
    """(container, alias) of --link."""
    texts = list(container.record.host.get("Links") or ())
    for settings in container.record.networks.values():
        texts += settings.get("Links") or ()
    found = []
    for text in texts:
        target, _, alias = str(text).lstrip("/").partition(":")
        alias = alias.rpartition("/")[2]
        found.append((target, alias or target))
    return found
