"""Which listeners only this machine can reach, and whether a request means this machine by name.

A web page can point a DNS name of its own at 127.0.0.1 and then ask there what it likes: its requests carry that name in `Host`.
"""

from __future__ import annotations

_LOCAL = ("localhost", "[::1]", "")


def is_local(place: str) -> bool:
    """Whether all listeners (separated by commas) are unix sockets or loopback. What a service manager handed over is not known to be."""
    return all(host.startswith("unix://") or is_loopback(host) for host in place.split(","))


def is_loopback(host: str) -> bool:
    """Of a listener: tcp on an address that only this machine reaches."""
    if not host.startswith("tcp://"):
        return False
    name = host.removeprefix("tcp://").rpartition(":")[0]
    return name in ("localhost", "[::1]", "::1") or _is_ipv4_loopback(name)


def names_this_machine(header: str) -> bool:
    """Of a Host header: none, localhost or a loopback address, with or without a port."""
    name = header.lower()
    host = name if name.endswith("]") else name.rpartition(":")[0] if ":" in name else name
    return host in _LOCAL or _is_ipv4_loopback(host)


def is_rebound(header: str) -> bool:
    """Of a Host header: a DNS name of somebody. Clients on a unix socket send words of their own there (`docker`, `api.moby.localhost`)."""
    name = header.lower().partition(":")[0].rstrip(".")
    return "." in name and not name.endswith(".localhost") and not names_this_machine(header)


def _is_ipv4_loopback(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isascii() and part.isdigit() for part in parts)
