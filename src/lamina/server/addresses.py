"""Which subnet a network has, and which address in it a container."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from lamina.server.errors import ApiError, BadRequest

# docker's pools, in its order
POOLS = (
    *(IPv4Network(f"172.{number}.0.0/16") for number in range(17, 32)),
    *(IPv4Network(f"192.168.{number}.0/20") for number in range(0, 256, 16)),
)
_ROUTES = Path("/proc/net/route")


def free_pool(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first pool that overlaps no network of ours and nothing that the machine has a route to. ApiError."""
    used = [*taken, *_routes()]
    for pool in POOLS:
        if not any(pool.overlaps(other) for other in used):
            return pool
    raise ApiError("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network", 400)


def _routes() -> list[IPv4Network]:
    try:
        rows = [line.split() for line in _ROUTES.read_text().splitlines()[1:]]
    except OSError:
        return []
    found = []
    for row in rows:
        if len(row) > 7 and row[7] != "00000000":
            address, mask = (int(struct.unpack("<I", bytes.fromhex(row[column]))[0]) for column in (1, 7))
            found.append(IPv4Network((address, mask.bit_count()), strict=False))
    return found


def asked_for(ipam: Mapping[str, Any], taken: Iterable[IPv4Network]) -> tuple[IPv4Interface | None, IPv4Network | None]:
    """(the gateway in its subnet, the range for containers) of a request's IPAM; (None, None) when it leaves both to us. BadRequest."""
    driver = str(ipam.get("Driver") or "default")
    if driver != "default":
        raise BadRequest(f'invalid ipam driver: "{driver}" is not there, only default')
    parts = [part for part in ipam.get("Config") or () if part.get("Subnet")]
    if not parts:
        return None, None
    if len(parts) > 1:
        raise BadRequest("networks of this engine have one IPv4 subnet")
    part = parts[0]
    try:
        subnet = IPv4Network(str(part["Subnet"]), strict=False)
        gateway = IPv4Address(str(part["Gateway"]).partition("/")[0]) if part.get("Gateway") else subnet[1]
        span = IPv4Network(str(part["IPRange"]), strict=False) if part.get("IPRange") else None
    except (ValueError, IndexError) as error:
        raise BadRequest(f"invalid subnet {part['Subnet']!r}: {error} (networks of this engine are IPv4)") from None
    if subnet.prefixlen > 30 or subnet.prefixlen < 8:
        raise BadRequest(f"invalid subnet {subnet}: a prefix from 8 to 30 is needed")
    if gateway not in subnet or (span is not None and not span.subnet_of(subnet)):
        raise BadRequest(f"no matching subnet for gateway {gateway} or range {span}")
    if any(subnet.overlaps(other) for other in taken):
        raise ApiError("Pool overlaps with other one on this address space", 403)
    return IPv4Interface(f"{gateway}/{subnet.prefixlen}"), span


class Addresses:
    """Of one network; one after the other, so that an address is not used again at once. Not thread-safe."""

    def __init__(self, gateway: IPv4Interface, span: IPv4Network | None) -> None:
        self._gateway = gateway
        self._span = span or gateway.network
        self._used: set[IPv4Address] = {gateway.ip, gateway.network.network_address, gateway.network.broadcast_address}
        self._next = 0

    def take(self, wanted: str = "") -> IPv4Interface:
        """BadRequest for an address that is not of this network, ApiError when it or all are taken."""
        if wanted:
            try:
                address = IPv4Address(wanted)
            except ValueError:
                raise BadRequest(f"invalid IPv4 address: {wanted}") from None
            if address not in self._gateway.network:
                raise BadRequest(f"invalid address {wanted}: It does not belong to any of this network's subnets")
            if address in self._used:
                raise ApiError("Address already in use", 403)
        else:
            address = self._free()
        self._used.add(address)
        return IPv4Interface(f"{address}/{self._gateway.network.prefixlen}")

    def _free(self) -> IPv4Address:
        count = self._span.num_addresses
        for step in range(count):
            address = self._span[(self._next + step) % count]
            if address not in self._used:
                self._next = (self._next + step + 1) % count
                return address
        raise ApiError("no available IPv4 addresses on this network's address pools", 500)

    def give_back(self, address: IPv4Address) -> None:
        if address != self._gateway.ip:
            self._used.discard(address)
