"""Networks as docker lists them: what was made, who is in them. Their links and addresses while containers run: wiring.py."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.oci import typed
from lamina.server.addresses import asked_for, free_pool
from lamina.server.clock import rfc3339
from lamina.server.containers import keeping
from lamina.server.errors import ApiError, BadRequest, Conflict, NotFound
from lamina.server.events import Events

if TYPE_CHECKING:
    from lamina.server.containers.container import Container
    from lamina.server.wiring import Wiring

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class Network(msgspec.Struct, frozen=True):
    """`gateway` with the subnet's prefix, "" for none; `span`: the part of it for containers; `own_pool`: the subnet was asked for."""

    id: str
    name: str
    driver: str
    created: float
    labels: dict[str, str] = {}
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    gateway: str = ""
    span: str = ""

    @property
    def predefined(self) -> bool:
        return self.name in ("bridge", "host", "none")

    @property
    def subnet(self) -> IPv4Network | None:
        return IPv4Interface(self.gateway).network if self.gateway else None


class Networks:
    """Thread-safe. `containers` gives those of the engine."""

    def __init__(
        self, folder: Path, now: Callable[[], float], events: Events, containers: Callable[[], list[Container]], wiring: Wiring
    ) -> None:
        self._file = folder / "networks.json"
        self._now = now
        self._events = events
        self._containers = containers
        self._wiring = wiring
        self._lock = threading.RLock()
        try:
            kept = typed.json(self._file.read_bytes(), type=list[Network])
        except (FileNotFoundError, msgspec.MsgspecError):
            kept = []
        self._networks = {
            name: Network(hashlib.sha256(f"{folder}:{name}".encode()).hexdigest(), name, driver, now())
            for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null"))
        }
        self._networks |= {network.name: network for network in kept if not network.predefined}
        for network in list(self._networks.values()):
            if network.driver == "bridge" and not network.gateway:
                self._networks[network.name] = msgspec.structs.replace(network, gateway=self._free_gateway())

    def _free_gateway(self) -> str:
        pool = free_pool(self._subnets())
        return f"{pool[1]}/{pool.prefixlen}"

    def _subnets(self) -> list[IPv4Network]:
        return [network.subnet for network in self._networks.values() if network.subnet is not None]

    def all(self) -> list[Network]:
        with self._lock:
            return list(self._networks.values())

    def named(self, name: str) -> Network | None:
        with self._lock:
            return self._networks.get(name)

    def settle(self, name: str, gateway: str) -> Network | None:
        """A network whose bridge is there already, from the engine before; a predefined one has its address then. None: it is not known."""
        with self._lock:
            found = self._networks.get(name)
            if found is not None and found.predefined and found.gateway != gateway:
                found = self._networks[name] = msgspec.structs.replace(found, gateway=gateway)
            return found

    def find(self, text: str) -> Network:
        found = [n for n in self.all() if text in (n.name, n.id)] or [n for n in self.all() if text and n.id.startswith(text)]
        if len(found) != 1:
            raise (
                NotFound(f"network {text} not found")
                if not found
                else BadRequest(f"network {text} is ambiguous ({len(found)} matches found on ID prefix)")
            )
        return found[0]

    def create(self, body: Mapping[str, Any]) -> Network:
        name = str(body.get("Name") or "")
        driver = str(body.get("Driver") or "bridge")
        if not _NAME.fullmatch(name):
            raise BadRequest(f"invalid network name: {name!r}")
        if driver not in ("bridge", "null", "host"):
            raise ApiError(f'plugin "{driver}" not found', 404)
        if driver != "bridge":
            raise BadRequest(f'only one instance of "{driver}" network is allowed', 403)
        if body.get("EnableIPv6"):
            raise BadRequest("networks of this engine are IPv4: IPv6 cannot be enabled")
        with self._lock:
            if name in self._networks:
                raise Conflict(f"network with name {name} already exists")
            gateway, span = asked_for(body.get("IPAM") or {}, self._subnets())
            made = Network(
                os.urandom(32).hex(), name, driver, self._now(), dict(body.get("Labels") or {}), bool(body.get("Internal")),
                bool(body.get("Attachable")), dict(body.get("Options") or {}), str(gateway or self._free_gateway()), str(span or ""),
            )  # fmt: skip
            self._networks[name] = made
            self._save()
        self._events.emit("network", "create", made.id, {"name": name, "type": driver})
        return made

    def remove(self, network: Network) -> None:
        if network.predefined:
            raise BadRequest(f"{network.name} is a pre-defined network and cannot be removed", 403)
        users = [container for container in self._containers() if network.name in container.record.networks and container.running]
        if users:
            raise BadRequest(f"error while removing network: network {network.name} id {network.id} has active endpoints", 403)
        with self._lock:
            self._networks.pop(network.name, None)
            self._save()
        self._wiring.forget(network)
        self._events.emit("network", "destroy", network.id, {"name": network.name, "type": network.driver})

    def asked(self, mode: str, endpoints: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The networks of a new container, by name. NotFound, BadRequest."""
        if mode.startswith("container:"):
            return {}
        name = "bridge" if mode in ("default", "") else mode
        first = self.find(name)
        found = {first.name: endpoint(endpoints.get(mode) or endpoints.get(name) or endpoints.get(first.name) or {})}
        for other, settings in endpoints.items():
            if other not in (mode, name, "default", first.id):
                found[self.find(other).name] = endpoint(settings or {})
        if len(found) > 1 and {"host", "none"} & set(found):
            raise BadRequest(
                "container cannot be connected to multiple networks with one of the networks in private (none) or host mode", 403
            )
        if any(settings.get("IPAMConfig") and self.find(other).predefined for other, settings in found.items()):
            raise BadRequest("user specified IP address is supported on user defined networks only")
        return found

    def connect(self, network: Network, container: Container, settings: Mapping[str, Any]) -> None:
        with container.changed:
            if network.name in container.record.networks:
                raise Conflict(f"endpoint with name {container.name} already exists in network {network.name}", 403)
            mode = container.record.host["NetworkMode"]
            if network.driver != "bridge" or mode == "host" or mode.startswith("container:"):
                raise BadRequest("container cannot be connected to host network or disconnected from it" if "host" in (network.name, mode)
                                 else f"container cannot be connected to {network.name} beside {mode}", 403)  # fmt: skip
            made = endpoint(settings)
            if container.running:
                self._wiring.connect(container, network, made)
                keeping.tell(container)
            container.record.networks[network.name] = made
            if "none" in container.record.networks:
                del container.record.networks["none"]
            container.save()
        self._events.emit("network", "connect", network.id, {"container": container.id, "name": network.name, "type": network.driver})

    def disconnect(self, network: Network, container: Container, *, force: bool) -> None:
        with container.changed:
            if network.name not in container.record.networks and not force:
                raise BadRequest(f"container {container.id} is not connected to network {network.name}", 403)
            if network.name == "host":
                raise BadRequest("container cannot be disconnected from host network", 403)
            container.record.networks.pop(network.name, None)
            if container.running:
                self._wiring.disconnect(container, network)
                keeping.tell(container)
            container.save()
        self._events.emit("network", "disconnect", network.id, {"container": container.id, "name": network.name, "type": network.driver})

    def endpoints(self, container: Container) -> dict[str, dict[str, Any]]:
        """NetworkSettings.Networks."""
        found: dict[str, dict[str, Any]] = {}
        for name, settings in container.record.networks.items():
            network = self.named(name)
            plug = container.plugs.get(name)
            found[name] = {
                "IPAMConfig": settings.get("IPAMConfig"), "Links": settings.get("Links"), "Aliases": settings.get("Aliases"),
                "NetworkID": network.id if network is not None else "", "EndpointID": plug.id if plug else "", "Gateway": plug.gateway if plug else "",
                "IPAddress": plug.address if plug else "", "IPPrefixLen": plug.interface.network.prefixlen if plug else 0, "IPv6Gateway": "",
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": plug.mac if plug else "", "DriverOpts": None,
            }  # fmt: skip
        return found

    def document(self, network: Network) -> dict[str, Any]:
        members = {}
        for container in self._containers():
            if container.running and network.name in container.record.networks:
                plug = container.plugs.get(network.name)
                members[container.id] = {
                    "Name": container.name, "EndpointID": plug.id if plug else "", "MacAddress": plug.mac if plug else "",
                    "IPv4Address": str(plug.interface) if plug else "", "IPv6Address": "",
                }  # fmt: skip
        config = {"Subnet": str(network.subnet), "Gateway": network.gateway.partition("/")[0]} if network.gateway else None
        if config is not None and network.span:
            config["IPRange"] = network.span
        return {
            "Name": network.name, "Id": network.id, "Created": rfc3339(network.created), "Scope": "local", "Driver": network.driver,
            "EnableIPv6": False, "IPAM": {"Driver": "default", "Options": None, "Config": [config] if config else []}, "Internal": network.internal,
            "Attachable": network.attachable, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False,
            "Containers": members, "Options": network.options, "Labels": network.labels,
        }  # fmt: skip

    def _save(self) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode([network for network in self._networks.values() if not network.predefined]))
        os.replace(temporary, self._file)


def endpoint(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a request's EndpointSettings. BadRequest for what cannot be had."""
    found: dict[str, Any] = {"Aliases": [str(alias) for alias in settings.get("Aliases") or ()] or None}
    address = str((settings.get("IPAMConfig") or {}).get("IPv4Address") or "")
    if address:
        found["IPAMConfig"] = {"IPv4Address": address}
    if (settings.get("IPAMConfig") or {}).get("IPv6Address"):
        raise BadRequest("networks of this engine are IPv4: no IPv6 address can be given")
    if settings.get("Links"):
        found["Links"] = [str(link) for link in settings["Links"]]
    return found
