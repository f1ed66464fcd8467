"""A container's record as what the sandbox takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lamina.sandbox.containers import ProcessSpec
from lamina.sandbox.limits import Limits
from lamina.sandbox.protocols import Bind, Overlay, SandboxSpec, Tmpfs
from lamina.server.containers import capabilities
from lamina.server.containers.container import Container, MountPoint
from lamina.server.errors import ApiError


def sandbox_spec(
    container: Container,
    lowers: tuple[Path, ...],
    volume_path: Callable[[str], Path],
    hosts: tuple[tuple[str, str], ...],
    *,
    machine: bool = False,
    network_of: str = "",
) -> SandboxSpec:
    """`lowers` top first; `machine`: on the machine's network; else `network_of`, the file of a namespace to join, or one of its own. The work folder is new each time: a volatile overlay cannot be mounted twice on one."""
    record = container.record
    host = record.host
    work = container.folder / "work"
    gateway = next((plug.gateway for plug in container.plugs.values() if plug.gateway), "127.0.0.1")
    from lamina.store.removal import remove

    remove(work)
    work.mkdir(0o700)
    return SandboxSpec(
        root=Overlay(lowers, container.upper, work),
        argv=(record.path, *record.args),
        env=(),
        hostname=record.config["Hostname"],
        hosts=(*hosts, *(_host(text, gateway) for text in host.get("ExtraHosts") or ())),
        network="host" if machine else "none",
        network_of=network_of,
        insecure=bool(host["Privileged"]),
        binds=tuple(bind(mount, volume_path) for mount in record.mounts if mount.type != "tmpfs"),
        tmpfs=tuple(Tmpfs(mount.target, mount.size, mount.mode) for mount in record.mounts if mount.type == "tmpfs"),
        shm_size=int(host["ShmSize"]),
    )


def bind(mount: MountPoint, volume_path: Callable[[str], Path]) -> Bind:
    source = volume_path(mount.name) if mount.type == "volume" else Path(mount.source)
    if not os.path.lexists(source):
        raise ApiError(f"the mount's source {source} is not there any more")
    if mount.root and Path(mount.root) != source:
        return Bind(Path(mount.root), mount.target, mount.readonly, str(source.relative_to(mount.root)))
    return Bind(source, mount.target, mount.readonly)


def process_spec(container: Container) -> ProcessSpec:
    config, host = container.record.config, container.record.host
    env = list(config["Env"])
    names = {item.partition("=")[0] for item in env}
    if "HOSTNAME" not in names:
        env.append(f"HOSTNAME={config['Hostname']}")
    if config["Tty"] and "TERM" not in names:
        env.append("TERM=xterm")
    options = [str(option) for option in host.get("SecurityOpt") or ()]
    size = host.get("ConsoleSize") or [0, 0]
    return ProcessSpec(
        argv=(container.record.path, *container.record.args),
        env=tuple(env),
        cwd=config["WorkingDir"] or "/",
        user=config["User"],
        groups=tuple(str(group) for group in host.get("GroupAdd") or ()),
        tty=bool(config["Tty"]),
        size=(int(size[0]), int(size[1])),
        capabilities=capabilities.ALL if host["Privileged"] else capabilities.mask(host["CapAdd"] or (), host["CapDrop"] or ()),
        privileged=bool(host["Privileged"]),
        unconfined="seccomp=unconfined" in options,
        no_new_privileges="no-new-privileges" in options or "no-new-privileges:true" in options or "no-new-privileges=true" in options,
        limits=limits_of(host),
        init=bool(host.get("Init")),
        rlimits=tuple((str(item["Name"]), int(item["Soft"]), int(item["Hard"])) for item in host.get("Ulimits") or ()),
    )


def limits_of(host: Mapping[str, Any]) -> Limits:
    """Of a HostConfig, or of an update."""
    quota, period = int(host.get("CpuQuota") or 0), int(host.get("CpuPeriod") or 0) or 100_000
    cpus = int(host.get("NanoCpus") or 0) / 10**9 or (quota / period if quota > 0 else 0.0)
    return Limits(max(0, int(host.get("Memory") or 0)), cpus, max(0, int(host.get("PidsLimit") or 0)))


def resolv_conf(container: Container, gateway: str) -> str:
    """--dns and friends, else the host's; in a network that somebody made, or where the host's is on its loopback, the `gateway` answers for names
    (and asks whom --dns names)."""
    host = container.record.host
    lines = [f"search {' '.join(host['DnsSearch'])}"] if host.get("DnsSearch") else []
    machine = _machine()
    if gateway and (any(name != "bridge" for name in container.plugs) or not (host.get("Dns") or _reachable(machine))):
        lines = lines or [line for line in machine if line.startswith(("search", "domain"))]
        lines.append(f"nameserver {gateway}")
    else:
        lines += [f"nameserver {address}" for address in host.get("Dns") or ()]
    if host.get("DnsOptions"):
        lines.append(f"options {' '.join(host['DnsOptions'])}")
    if not any(line.startswith("nameserver") for line in lines):
        lines = machine
    return "".join(line + "\n" for line in lines)


def _machine() -> list[str]:
    with contextlib.suppress(OSError):
        return Path("/etc/resolv.conf").read_text(errors="replace").splitlines()
    return []


def _reachable(lines: list[str]) -> bool:
    """Whether all name servers there are some that a container can ask: IPv4, and not on the machine's loopback."""
    servers = [line.split()[1] for line in lines if line.startswith("nameserver") and len(line.split()) > 1]
    return bool(servers) and not any(":" in server or server.startswith("127.") for server in servers)


def _host(text: str, gateway: str) -> tuple[str, str]:
    """`name:address` as (name, address)."""
    name, _, address = text.partition(":" if "=" not in text else "=")
    return name, gateway if address == "host-gateway" else address
