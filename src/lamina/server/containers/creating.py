"""`POST /containers/create`: docker's request and the image's config become a container's record."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lamina.server.containers import capabilities
from lamina.server.containers.container import MountPoint
from lamina.server.containers.spec import limits_of
from lamina.server.errors import BadRequest, Conflict

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LEAST_MEMORY = 6 << 20  # docker's
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Rules(msgspec.Struct, frozen=True):
    """What clients may ask for. `roots`: host folders below which binds may lie; () = all. `mapped`: a path as clients see it, and the host folder that
    it is; one of `roots`."""

    privileged: bool = False
    roots: tuple[Path, ...] = ()
    mapped: tuple[tuple[str, Path], ...] = ()

    def root_of(self, real: Path) -> str:
        return next((str(root) for root in self.roots if real.is_relative_to(root)), "")


def check_name(name: str) -> str:
    name = name.removeprefix("/")
    if not _NAME.fullmatch(name):
        raise BadRequest(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name


def merged_config(asked: Mapping[str, Any], image: Mapping[str, Any], image_name: str, identifier: str) -> dict[str, Any]:
    """docker's Config: what was asked for, with the image's values where nothing was."""
    entrypoint, command = _words(asked, "Entrypoint"), _words(asked, "Cmd")
    if entrypoint is None or not entrypoint:
        entrypoint = _words(image, "Entrypoint")
        if not command:
            command = _words(image, "Cmd")
    elif entrypoint == [""]:
        entrypoint = None
    env = list(asked.get("Env") or [])
    names = {item.partition("=")[0] for item in env}
    env = [item for item in image.get("Env") or [] if item.partition("=")[0] not in names] + [item for item in env if "=" in item]
    if not any(item.startswith("PATH=") for item in env):
        env.insert(0, PATH)
    labels = {**(image.get("Labels") or {}), **(asked.get("Labels") or {})}
    config: dict[str, Any] = {
        "Hostname": asked.get("Hostname") or identifier[:12],
        "Domainname": asked.get("Domainname") or "",
        "User": asked.get("User") or image.get("User") or "",
        "AttachStdin": bool(asked.get("AttachStdin")),
        "AttachStdout": bool(asked.get("AttachStdout")),
        "AttachStderr": bool(asked.get("AttachStderr")),
        "ExposedPorts": {**(image.get("ExposedPorts") or {}), **(asked.get("ExposedPorts") or {})} or None,
        "Tty": bool(asked.get("Tty")),
        "OpenStdin": bool(asked.get("OpenStdin")),
        "StdinOnce": bool(asked.get("StdinOnce")),
        "Env": env,
        "Cmd": command or None,
        "Image": image_name,
        "Volumes": {**(image.get("Volumes") or {}), **(asked.get("Volumes") or {})} or None,
        "WorkingDir": asked.get("WorkingDir") or image.get("WorkingDir") or "",
        "Entrypoint": entrypoint or None,
        "OnBuild": image.get("OnBuild"),
        "Labels": labels,
    }
    if config["ExposedPorts"] is None:
        del config["ExposedPorts"]
    for name in ("Healthcheck", "StopSignal", "Shell"):
        value = asked.get(name) or image.get(name)
        if value:
            config[name] = value
    if asked.get("StopTimeout") is not None:
        config["StopTimeout"] = asked["StopTimeout"]
    if not entrypoint and not command:
        raise BadRequest("No command specified")
    if config["WorkingDir"] and not config["WorkingDir"].startswith("/"):
        raise BadRequest(f"the working directory '{config['WorkingDir']}' is invalid, it needs to be an absolute path")
    return config


def _words(source: Mapping[str, Any], name: str) -> list[str] | None:
    value = source.get(name)
    if isinstance(value, str):
        return [value]
    if value is None or (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)):
        return None if value is None else list(value)
    raise BadRequest(f"{name} must be a list of strings")


_HOST_DEFAULTS: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "default",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 64 << 20,
    "Runtime": "lamina",
    "ConsoleSize": [0, 0],
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "CgroupParent": "",
    "CpuPeriod": 0,
    "CpuQuota": 0,
    "CpusetCpus": "",
    "CpusetMems": "",
    "Devices": [],
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": None,
    "MaskedPaths": None,
    "ReadonlyPaths": None,
}


def host_config(
    asked: Mapping[str, Any], rules: Rules, held: Callable[[], Collection[str]] = lambda: ()
) -> tuple[dict[str, Any], list[str]]:
    """(HostConfig with docker's defaults, warnings). BadRequest or Conflict for what is refused. `held`: which limits can be held here."""
    host = {**_HOST_DEFAULTS, **{name: value for name, value in asked.items() if value is not None}}
    host["MemorySwappiness"] = None
    host["RestartPolicy"] = host["RestartPolicy"] if (host["RestartPolicy"] or {}).get("Name") else {"Name": "no", "MaximumRetryCount": 0}
    host["ShmSize"] = host["ShmSize"] or 64 << 20
    host["Runtime"] = "lamina"
    check_policy(host["RestartPolicy"], automatic=bool(host["AutoRemove"]))
    if host["Privileged"] and not rules.privileged:
        raise BadRequest("privileged containers are not allowed by this engine (lamina serve --allow-privileged)", 403)
    if host["Devices"]:
        raise BadRequest("devices cannot be given to containers of this engine")
    for option in ("PidMode", "IpcMode", "UsernsMode"):
        if str(host[option]).startswith(("container:", "host")):
            raise BadRequest(f"{option}={host[option]} is not supported by this engine")
    if str(host["NetworkMode"]).startswith("container:") and (host["PortBindings"] or host["PublishAllPorts"]):
        raise BadRequest("conflicting options: port publishing and the container type network mode")
    capabilities.mask(host["CapAdd"] or (), host["CapDrop"] or ())
    return host, [*log_rules(host), *unheld(host, held)]


def check_policy(policy: Mapping[str, Any], *, automatic: bool) -> None:
    """BadRequest. `automatic`: the container is removed at its end."""
    name, most = policy["Name"], int(policy.get("MaximumRetryCount") or 0)
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise BadRequest(f"invalid restart policy '{name}'")
    if name != "no" and automatic:
        raise BadRequest("can't create 'AutoRemove' container with restart policy")
    if most < 0 or (most and name != "on-failure"):
        raise BadRequest(
            "maximum retry count cannot be negative" if most < 0 else f"maximum retry count cannot be used with restart policy '{name}'"
        )


def unheld(host: Mapping[str, Any], held: Callable[[], Collection[str]]) -> list[str]:
    """Warnings about limits that were asked for and are not kept. BadRequest for impossible ones."""
    if 0 < int(host.get("Memory") or 0) < _LEAST_MEMORY:
        raise BadRequest("Minimum memory limit allowed is 6MB")
    if host.get("NanoCpus") and (host.get("CpuQuota") or host.get("CpuPeriod")):
        raise BadRequest("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if int(host.get("NanoCpus") or 0) > (os.cpu_count() or 1) * 10**9:
        raise BadRequest(f"Range of CPUs is from 0.01 to {os.cpu_count()}.00, as there are only {os.cpu_count()} CPUs available")
    found = limits_of(host)
    asked = [
        (name, word) for name, word in (("memory", "memory"), ("cpus", "CPU"), ("pids", "the number of processes")) if getattr(found, name)
    ]
    there = held() if asked else ()
    warnings = [f"{word} is not limited: no control group for it can be made here" for name, word in asked if name not in there]
    warnings += [f"{name} is noted, not kept" for name in ("CpuShares", "CpusetCpus", "CpusetMems", "MemoryReservation") if host.get(name)]
    return warnings


def log_rules(host: dict[str, Any]) -> list[str]:
    """Checks LogConfig. BadRequest."""
    config = host["LogConfig"] = {
        "Type": (host.get("LogConfig") or {}).get("Type") or "json-file",
        "Config": (host.get("LogConfig") or {}).get("Config") or {},
    }
    if config["Type"] not in ("json-file", "local", "none"):
        raise BadRequest(f"logger: no log driver named '{config['Type']}' is registered")
    ignored = []
    for name, value in config["Config"].items():
        if name == "max-size" and not re.fullmatch(r"(-1|[0-9]{1,15}[kmg]?b?)", str(value).lower()):
            raise BadRequest(f"invalid value for max-size: {value!r}")
        if name == "max-file" and not re.fullmatch("0*[1-9][0-9]{0,8}", str(value)):
            raise BadRequest("max-file cannot be less than 1")
        if name not in ("max-size", "max-file", "mode", "max-buffer-size", "compress", "labels", "env"):
            raise BadRequest(f"unknown log opt '{name}' for {config['Type']} log driver")
        if name in ("labels", "env"):
            ignored.append(f"log opt {name} is without effect")
    return ignored


def mounts(
    config: Mapping[str, Any], host: Mapping[str, Any], rules: Rules, volume: Callable[[str], str], inherited: Sequence[MountPoint] = ()
) -> list[MountPoint]:
    """Binds, mounts, tmpfs and anonymous volumes. `volume(name)` makes a volume where there is none ("" = a new anonymous one) and gives
    its name; sources of volumes are looked up at the start."""
    found: dict[str, MountPoint] = {mount.target: mount for mount in inherited}

    def add(mount: MountPoint) -> None:
        target = re.sub("/+", "/", mount.target).rstrip("/")
        if not target.startswith("/"):
            raise BadRequest(f"invalid mount config: invalid mount path: {mount.target!r} mount path must be absolute and not '/'")
        found[target] = msgspec.structs.replace(mount, target=target)

    for text in host.get("Binds") or ():
        add(_bind(text, rules, volume))
    for item in host.get("Mounts") or ():
        add(_mount(item, rules, volume))
    for target, options in (host.get("Tmpfs") or {}).items():
        add(_tmpfs(target, options))
    for target in config.get("Volumes") or ():
        if target.rstrip("/") not in found:
            add(MountPoint("volume", target, name=volume(""), anonymous=True))
    return sorted(found.values(), key=lambda mount: mount.target)


def _bind(text: str, rules: Rules, volume: Callable[[str], str]) -> MountPoint:
    parts = text.split(":")
    if len(parts) == 1:
        return MountPoint("volume", parts[0], name=volume(""), anonymous=True)
    if len(parts) > 3 or not all(parts[:2]):
        raise BadRequest(f"invalid volume specification: {text!r}")
    readonly = len(parts) == 3 and "ro" in parts[2].split(",")
    if not parts[0].startswith("/"):
        return MountPoint("volume", parts[1], name=volume(parts[0]), readonly=readonly)
    source = allowed(parts[0], rules)
    try:
        if not source.exists():
            source.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # longer than a name may be, below a file, on a disk that is full
        raise BadRequest(f"invalid volume specification: {parts[0]!r}: {error.strerror}") from None
    return MountPoint("bind", parts[1], str(source), readonly=readonly, root=rules.root_of(source))


def _mount(item: Mapping[str, Any], rules: Rules, volume: Callable[[str], str]) -> MountPoint:
    kind, target, readonly = item.get("Type", "volume"), str(item.get("Target", "")), bool(item.get("ReadOnly"))
    if kind == "bind":
        source = allowed(str(item.get("Source", "")), rules)
        if not os.path.exists(source):
            raise BadRequest(f'invalid mount config for type "bind": bind source path does not exist: {source}')
        return MountPoint("bind", target, str(source), readonly=readonly, root=rules.root_of(source))
    if kind == "volume":
        name = str(item.get("Source") or "")
        if (item.get("VolumeOptions") or {}).get("Subpath"):  # since API 1.45: the whole volume in its place would be a mistake nobody sees
            raise BadRequest("a part of a volume (volume-subpath) cannot be mounted by this engine")
        return MountPoint("volume", target, name=volume(name), readonly=readonly, anonymous=not name)
    if kind == "tmpfs":
        options = item.get("TmpfsOptions") or {}
        return MountPoint("tmpfs", target, size=int(options.get("SizeBytes") or 0), mode=int(options.get("Mode") or 0o1777))
    raise BadRequest(f"mount type {kind!r} is not supported by this engine")


def _tmpfs(target: str, options: str) -> MountPoint:
    size, mode = 0, 0o1777
    for option in options.split(","):
        name, _, value = option.partition("=")
        number = re.fullmatch(r"([0-9]{1,15})([kmg]?)", value.lower())
        if name == "size" and number:
            size = int(number[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[number[2]]
        elif name == "mode" and re.fullmatch("[0-7]{1,5}", value):
            mode = int(value, 8)
    return MountPoint("tmpfs", target, size=size, mode=mode)


def allowed(path: str, rules: Rules) -> Path:
    """A host path that may be shown to containers, links resolved. BadRequest."""
    if not path.startswith("/"):
        raise BadRequest(f"invalid mount path: '{path}' must be absolute")
    try:
        impossible = any(letter < " " for letter in os.fsencode(path).decode("latin-1"))
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise BadRequest(f"invalid mount path: {path!a}")
    path = posixpath.normpath(path)
    for seen, root in rules.mapped:
        if path == seen or path.startswith(seen + "/"):
            path = str(root) + path[len(seen) :]
            break
    real = Path(path).resolve()
    if rules.roots and not any(real.is_relative_to(root) for root in rules.roots):
        raise BadRequest(f"{path} lies outside of the folders that this engine shows to containers (--allow-root)", 403)
    return real


def taken(name: str, identifier: str) -> Conflict:
    return Conflict(
        f'Conflict. The container name "/{name}" is already in use by container "{identifier}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
