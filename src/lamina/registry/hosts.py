"""Which host answers for a registry name, which hosts may be spoken to without TLS, which requests go through a proxy. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_HUB = "registry-1.docker.io"
_ENDPOINTS = {"docker.io": _HUB, "index.docker.io": _HUB}


def endpoint(registry: str) -> str:
    """The host (with port) that serves the registry of a reference. Docker Hub's name is not its address."""
    return _ENDPOINTS.get(registry, registry)


def split_port(host: str) -> tuple[str, str]:
    """("name", "5000"), ("::1", "5000"), ("name", "")."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.lstrip(":")
    name, colon, port = host.rpartition(":")
    if colon and port.isdecimal() and ":" not in name:
        return name, port
    return host, ""


def is_loopback(host: str) -> bool:
    """Only by its name or literal address: a name that merely resolves to 127.0.0.1 is not trusted with plain http."""
    name = split_port(host)[0].lower()
    if name == "localhost" or name == "::1":
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(p.isascii() and p.isdecimal() and len(p) < 4 and int(p) < 256 for p in parts)


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxy URLs as the caller found them (flags, settings, environment); loopback never goes through one."""

    http: str = ""
    https: str = ""
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> Proxies:
        """From variables with the usual names; lower case wins, as in curl. The caller passes the mapping."""

        def pick(name: str) -> str:
            return values.get(name) or values.get(name.upper()) or values.get("all_proxy") or values.get("ALL_PROXY") or ""

        listed = values.get("no_proxy") or values.get("NO_PROXY") or ""
        return cls(pick("http_proxy"), pick("https_proxy"), tuple(p.strip() for p in listed.split(",") if p.strip()))

    def url_for(self, scheme: str, host: str) -> str:
        """The proxy for a request to `host` (name or name:port); empty for none."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or is_loopback(host) or self._exempt(host):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"

    def _exempt(self, host: str) -> bool:
        name, port = split_port(host.lower())
        for rule in self.no_proxy:
            wanted, wanted_port = split_port(rule.lower())
            if wanted == "*":
                return True
            if wanted_port and wanted_port != port:
                continue
            if "/" in wanted:
                if _in_network(name, wanted):
                    return True
                continue
            wanted = wanted.removeprefix("*").lstrip(".")
            if name == wanted or name.endswith("." + wanted):
                return True
        return False


def _in_network(name: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
