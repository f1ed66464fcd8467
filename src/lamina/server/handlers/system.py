"""/_ping, /version, /info, /events, /system/df, /auth, and what is refused as a whole."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from typing import Any

from lamina.sandbox import groups
from lamina.server import clock, filters
from lamina.server.daemon import Daemon, machine
from lamina.server.errors import ApiError
from lamina.server.events import FILTERS, Event
from lamina.server.http.messages import Answer, Reply, Request, Rows, answer
from lamina.version import __version__


def _api(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def ping(daemon: Daemon, request: Request) -> Reply:
    headers = (
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Builder-Version", "1"),
        ("Swarm", "inactive"),
    )
    return Answer(200, b"OK", "text/plain; charset=utf-8", headers)


def version(daemon: Daemon, request: Request) -> Reply:
    from lamina.server.router import ANNOUNCED, LOWEST

    kernel = os.uname()
    common = {
        "ApiVersion": _api(ANNOUNCED),
        "MinAPIVersion": _api(LOWEST),
        "Arch": machine(),
        "Os": "linux",
        "GoVersion": f"python{platform.python_version()}",
        "GitCommit": __version__,
        "BuildTime": "",
        "KernelVersion": kernel.release,
        "Experimental": "false",
    }
    component = {"Name": "Engine", "Version": __version__, "Details": common}
    return answer(
        {
            "Platform": {"Name": "lamina"},
            "Components": [component],
            "Version": __version__,
            **{name: value for name, value in common.items() if name != "Experimental"},
            "Experimental": False,
        }
    )


def info(daemon: Daemon, request: Request) -> Reply:
    containers = daemon.containers.all()
    states = [container.state.status for container in containers]
    kernel = os.uname()
    with daemon.store() as store:
        images = len(store.images.all())
        root = str(store.layout.root)
    held = groups.possible()
    words = {"memory": "memory", "cpus": "CPU", "pids": "process"}
    warnings = [f"WARNING: No {word} limit support: no control group can be made" for name, word in words.items() if name not in held]
    memory, cpus, pids = (name in held for name in words)
    if daemon.wiring.why_closed():
        warnings.append(f"WARNING: {daemon.wiring.why_closed()}")
    return answer(
        {
            "ID": daemon.id, "Containers": len(containers), "ContainersRunning": states.count("running"), "ContainersPaused": states.count("paused"),
            "ContainersStopped": states.count("exited") + states.count("created") + states.count("dead"), "Images": images, "Driver": "lamina",
            "DriverStatus": [["Sandbox", daemon.rung], ["Layers", "one directory per layer, overlay inside the sandbox"]], "SystemStatus": None,
            "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": None, "Log": ["json-file"]},
            "MemoryLimit": memory, "SwapLimit": False, "KernelMemory": False, "KernelMemoryTCP": False, "CpuCfsPeriod": cpus, "CpuCfsQuota": cpus,
            "CPUShares": False, "CPUSet": False, "PidsLimit": pids, "IPv4Forwarding": True, "BridgeNfIptables": True, "BridgeNfIp6tables": True,
            "Debug": False, "NFd": len(os.listdir("/proc/self/fd")), "OomKillDisable": False, "NGoroutines": threading.active_count(),
            "SystemTime": clock.rfc3339(daemon.now()), "LoggingDriver": "json-file", "CgroupDriver": "none", "CgroupVersion": "2", "NEventsListener": 0,
            "KernelVersion": kernel.release, "OperatingSystem": _operating_system(), "OSVersion": "", "OSType": "linux", "Architecture": kernel.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {
                "AllowNondistributableArtifactsCIDRs": [], "AllowNondistributableArtifactsHostnames": [], "InsecureRegistryCIDRs": ["127.0.0.0/8"],
                "IndexConfigs": {"docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": True, "Official": True}}, "Mirrors": [],
            },
            "NCPU": os.cpu_count() or 1, "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "GenericResources": None,
            "DockerRootDir": root, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Name": daemon.engine.host, "Labels": [], "ExperimentalBuild": False,
            "ServerVersion": __version__, "Runtimes": {"lamina": {"path": "lamina"}}, "DefaultRuntime": "lamina",
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "", "RemoteManagers": None},
            "LiveRestoreEnabled": daemon.keep, "Isolation": "", "InitBinary": "", "ContainerdCommit": {"ID": "", "Expected": ""},
            "RuncCommit": {"ID": "", "Expected": ""}, "InitCommit": {"ID": "", "Expected": ""},
            "SecurityOptions": ["name=seccomp,profile=default", *(["name=rootless"] if daemon.rung != "root" else [])], "Warnings": warnings,
        }
    )  # fmt: skip


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def events(daemon: Daemon, request: Request) -> Reply:
    now = daemon.now()
    since = 0.0 if request.query.get("since") == "0" else clock.parse(request.query.get("since"), now)
    until = clock.parse(request.query.get("until"), now)
    wanted = filters.parse(request.query, FILTERS)

    def subscribe(push: Callable[[bytes], None], end: Callable[[], None]) -> Callable[[], None]:
        def listener(event: Event) -> None:
            if until is not None and event.nano / 10**9 > until:
                return
            if event.matches(wanted):
                push(event.row())

        past, withdraw = daemon.events.listen(listener)
        if since is not None:
            for event in past:
                if event.nano / 10**9 >= since:
                    listener(event)
        if until is None:
            return withdraw
        if until <= daemon.now():
            end()
            return withdraw
        timer = threading.Timer(until - daemon.now(), end)
        timer.daemon = True
        timer.start()

        def both() -> None:
            timer.cancel()
            withdraw()

        return both

    return Rows(subscribe)


def disk_usage(daemon: Daemon, request: Request) -> Reply:
    from lamina.server.containers.copies import size_of
    from lamina.server.handlers.containers import summary
    from lamina.server.handlers.images import list_entry

    with daemon.store() as store:
        images = store.images.all()
        count: dict[str, int] = {}
        for image in images:
            for layer in image.layers:
                count[layer] = count.get(layer, 0) + 1
        rows = {row.id: row.size for row in store.layers.rows()}
        used = {layer for image in images for layer in image.layers}
        documents = []
        for image in images:
            entry = list_entry(store, image, request.version)
            entry["SharedSize"] = sum(rows.get(layer, 0) for layer in image.layers if count[layer] > 1)
            entry["Containers"] = len(daemon.containers.of_image(image.id))
            documents.append(entry)
        cache = [
            _cache_row(row.id, row.size, row.created, row.last_used)
            for row in store.layers.rows()
            if row.id not in used and row.id.startswith("diff:")
        ]
        total = sum(image.size for image in images)
    cache += [
        _cache_row(f"folder:{name}", size, last, last) | {"Type": "source.local", "Description": "a client's folder", "InUse": used}
        for name, size, last, used in daemon.buildkit.folders.sizes()
    ]
    containers = [summary(daemon, container) | {"SizeRw": size_of(container)} for container in daemon.containers.all()]
    volumes = [daemon.volumes.document(volume) | {"UsageData": daemon.volumes.usage(volume)} for volume in daemon.volumes.all()]
    return answer(
        {
            "LayersSize": total,
            "Images": documents,
            "Containers": containers,
            "Volumes": volumes,
            "BuildCache": cache,
            "BuilderSize": sum(r["Size"] for r in cache),
        }
    )


def _cache_row(layer: str, size: int, created: float, used: float) -> dict[str, Any]:
    return {
        "ID": layer.partition(":")[2][:25], "Parent": "", "Type": "regular", "Description": "layer of a build step", "InUse": False, "Shared": False,
        "Size": size, "CreatedAt": clock.rfc3339(created), "LastUsedAt": clock.rfc3339(used), "UsageCount": 1,
    }  # fmt: skip


def auth(daemon: Daemon, request: Request) -> Reply:
    from lamina.registry.auth import Credentials
    from lamina.server.logins import host_of

    body = request.json()
    host = host_of(str(body.get("serveraddress") or ""))
    credentials = Credentials(str(body.get("username") or ""), str(body.get("password") or ""), str(body.get("identitytoken") or ""))
    client = daemon.registry_for({host: credentials})
    client.session.check(host)
    return answer({"Status": "Login Succeeded", "IdentityToken": ""})


def no_swarm(daemon: Daemon, request: Request, **names: str) -> Reply:
    raise ApiError(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.', 503
    )


def plugins(daemon: Daemon, request: Request) -> Reply:
    return answer([])
