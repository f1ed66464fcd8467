"""Networks as docker lists them. `host` shares the machine's; every other one gives a container a network of its own with loopback only:
published ports lead in (containers/ports.py), nothing leads out."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.server.clock import rfc3339
from lamina.server.errors import ApiError, BadRequest, Conflict, NotFound
from lamina.server.events import Events

if TYPE_CHECKING:
    from lamina.server.containers.container import Container

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class Network(msgspec.Struct, frozen=True):
    id: str
    name: str
    driver: str
    created: float
    labels: dict[str, str] = {}
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}

    @property
    def predefined(self) -> bool:
        return self.name in ("bridge", "host", "none")


class Networks:
    """Thread-safe. `containers` gives those of the engine."""

    def __init__(self, folder: Path, now: Callable[[], float], events: Events, containers: Callable[[], list[Container]]) -> None:
        self._file = folder / "networks.json"
        self._now = now
        self._events = events
        self._containers = containers
        self._lock = threading.RLock()
        own = {
            name: Network(hashlib.sha256(f"{folder}:{name}".encode()).hexdigest(), name, driver, now())
            for name, driver in (("bridge", "bridge"), ("host", "host"), ("none", "null"))
        }
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=list[Network])
        except (FileNotFoundError, msgspec.MsgspecError):
            kept = []
        self._networks = {**own, **{network.name: network for network in kept}}

    def all(self) -> list[Network]:
        with self._lock:
            return list(self._networks.values())

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
        with self._lock:
            if name in self._networks:
                raise Conflict(f"network with name {name} already exists")
            made = Network(
                os.urandom(32).hex(), name, driver, self._now(), dict(body.get("Labels") or {}), bool(body.get("Internal")),
                bool(body.get("Attachable")), dict(body.get("Options") or {}),
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
        self._events.emit("network", "destroy", network.id, {"name": network.name, "type": network.driver})

    def asked(self, mode: str, endpoints: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The networks of a new container, by name. NotFound."""
        name = "bridge" if mode in ("default", "") else mode
        found = {self.find(name).name: _aliases(endpoints.get(mode) or endpoints.get(name) or {})}
        for other, settings in endpoints.items():
            if other not in (mode, name, "default"):
                found[self.find(other).name] = _aliases(settings or {})
        return found

    def connect(self, network: Network, container: Container, settings: Mapping[str, Any]) -> None:
        with container.changed:
            if network.name in container.record.networks:
                raise Conflict(f"endpoint with name {container.name} already exists in network {network.name}", 403)
            container.record.networks[network.name] = _aliases(settings)
            container.save()
        self._events.emit("network", "connect", network.id, {"container": container.id, "name": network.name, "type": network.driver})

    def disconnect(self, network: Network, container: Container, *, force: bool) -> None:
        with container.changed:
            if network.name not in container.record.networks and not force:
                raise BadRequest(f"container {container.id} is not connected to network {network.name}", 403)
            container.record.networks.pop(network.name, None)
            container.save()
        self._events.emit("network", "disconnect", network.id, {"container": container.id, "name": network.name, "type": network.driver})

    def hosts_for(self, container: Container) -> tuple[tuple[str, str], ...]:
        """(name, address) lines for /etc/hosts: its own names; it has loopback only."""
        names = {container.record.config["Hostname"]}
        return tuple((name, "127.0.0.1") for name in sorted(names))

    def endpoints(self, container: Container) -> dict[str, dict[str, Any]]:
        """NetworkSettings.Networks."""
        found: dict[str, dict[str, Any]] = {}
        for name, settings in container.record.networks.items():
            try:
                identifier = self.find(name).id
            except ApiError:
                identifier = ""
            address = "127.0.0.1" if container.running and name not in ("none", "host") else ""
            found[name] = {
                "IPAMConfig": None, "Links": None, "Aliases": settings.get("Aliases"), "NetworkID": identifier, "EndpointID": "",
                "Gateway": address, "IPAddress": address, "IPPrefixLen": 8 if address else 0, "IPv6Gateway": "", "GlobalIPv6Address": "",
                "GlobalIPv6PrefixLen": 0, "MacAddress": "", "DriverOpts": None,
            }  # fmt: skip
        return found

    def document(self, network: Network) -> dict[str, Any]:
        members = {
            container.id: {"Name": container.name, "EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}
            for container in self._containers()
            if container.running and network.name in container.record.networks
        }
        return {
            "Name": network.name, "Id": network.id, "Created": rfc3339(network.created), "Scope": "local", "Driver": network.driver,
            "EnableIPv6": False, "IPAM": {"Driver": "default", "Options": None, "Config": []}, "Internal": network.internal,
            "Attachable": network.attachable, "Ingress": False, "ConfigFrom": {"Network": ""}, "ConfigOnly": False,
            "Containers": members, "Options": network.options, "Labels": network.labels,
        }  # fmt: skip

    def _save(self) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode([network for network in self._networks.values() if not network.predefined]))
        os.replace(temporary, self._file)


def _aliases(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"Aliases": list(settings.get("Aliases") or ()) or None}
