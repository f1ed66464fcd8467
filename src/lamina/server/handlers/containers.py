"""/containers: create, list, inspect, start to remove, wait, copies. What streams out of one is streams.py's."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from lamina.sandbox import groups
from lamina.server import clock, filters
from lamina.server.containers import copies, creating, execs, processes, running, shapes, spec
from lamina.server.containers.container import Container
from lamina.server.daemon import Daemon
from lamina.server.errors import BadRequest, ClientGone, Conflict, NotFound
from lamina.server.handlers.images import find as find_image
from lamina.server.http.messages import Answer, Outlet, Reply, Request, Stream, answer, nothing

_FILTERS = (
    "ancestor", "before", "expose", "exited", "health", "id", "isolation", "is-task", "label", "label!", "name", "network", "publish",
    "since", "status", "volume",
)  # fmt: skip


def create(daemon: Daemon, request: Request) -> Reply:
    body = shapes.checked_body(request.json())
    name = str(body.get("Image") or "")
    if not body:
        raise BadRequest("Config cannot be empty in order to create a container")
    if not name:
        raise BadRequest("no image was named")
    with daemon.store() as store:
        image = find_image(store, name)
        config = json.loads(store.blobs.read(image.id)).get("config") or {}
    container, warnings = daemon.containers.create(image, name, config, body, request.query.get("name"))
    return answer({"Id": container.id, "Warnings": [*warnings, *_not_kept(body)]}, 201)


def _not_kept(body: Mapping[str, Any]) -> list[str]:
    """Warnings about what later APIs ask for and this engine does not do. Addresses stand in the container's settings, and from API 1.44 on in its networks'."""
    ends = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    found = []
    if body.get("MacAddress") or any((each or {}).get("MacAddress") for each in ends.values()):
        found.append("the MAC address is not kept: it follows from the container's IP address")
    mounts = (body.get("HostConfig") or {}).get("Mounts") or ()
    options = [mount.get("BindOptions") or {} for mount in mounts]
    if any(each.get("ReadOnlyForceRecursive") or each.get("ReadOnlyNonRecursive") or each.get("NonRecursive") for each in options):
        found.append("bind-recursive is not kept: mounts below a bound folder are taken along as they are")
    return found


def summary(daemon: Daemon, container: Container) -> dict[str, Any]:
    record = container.record
    return {
        "Id": container.id,
        "Names": ["/" + container.name],
        "Image": record.image_name,
        "ImageID": record.image,
        "Command": " ".join([record.path, *record.args]),
        "Created": int(record.created),
        "Ports": _port_list(container),
        "Labels": record.config["Labels"],
        "State": container.state.status,
        "Status": container.status_text(daemon.now()),
        "HostConfig": {"NetworkMode": record.host["NetworkMode"]},
        "NetworkSettings": {"Networks": daemon.networks.endpoints(container)},
        "Mounts": mount_documents(daemon, container),
    }


def _port_list(container: Container) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for port, bindings in container.ports.items():
        number, _, kind = port.partition("/")
        found += [{"IP": b["HostIp"], "PrivatePort": int(number), "PublicPort": int(b["HostPort"]), "Type": kind} for b in bindings]
        if not bindings:
            found.append({"PrivatePort": int(number), "Type": kind})
    return found


def mount_documents(daemon: Daemon, container: Container) -> list[dict[str, Any]]:
    found = []
    for mount in container.record.mounts:
        if mount.type == "tmpfs":
            continue
        document: dict[str, Any] = {
            "Type": mount.type,
            "Source": str(daemon.volumes.path(mount.name)) if mount.type == "volume" else mount.source,
            "Destination": mount.target,
            "Mode": "ro" if mount.readonly else ("z" if mount.type == "volume" else ""),
            "RW": not mount.readonly,
            "Propagation": "" if mount.type == "volume" else "rprivate",
        }
        if mount.type == "volume":
            document |= {"Name": mount.name, "Driver": "local"}
        found.append(document)
    return found


def index(daemon: Daemon, request: Request) -> Reply:
    wanted = filters.parse(request.query, _FILTERS)
    limit = request.query.integer("limit")
    everything = request.query.flag("all") or limit > 0 or "status" in wanted or "exited" in wanted
    found = [
        c for c in daemon.containers.all() if (everything or c.running or c.state.status == "restarting") and _matches(daemon, c, wanted)
    ]
    rows = []
    for container in found[:limit] if limit > 0 else found:
        row = summary(daemon, container)
        if request.query.flag("size"):
            row["SizeRw"] = copies.size_of(container)
            row["SizeRootFs"] = row["SizeRw"] + _image_size(daemon, container)
        rows.append(row)
    return answer(rows)


def _image_size(daemon: Daemon, container: Container) -> int:
    with contextlib.suppress(NotFound):
        return daemon.image_of(container).size
    return 0


def _matches(daemon: Daemon, container: Container, wanted: filters.Filters) -> bool:
    record = container.record

    def every(name: str, test: Callable[[str], bool]) -> bool:
        return name not in wanted or any(test(value) for value in wanted[name])

    def created_of(text: str) -> float:
        return daemon.containers.find(text).record.created

    health = str((container.health or {}).get("Status", "none"))
    networks = {n.name: n.id for n in daemon.networks.all()} if "network" in wanted else {}
    return (
        filters.labels_match(wanted, record.config["Labels"])
        and every("id", lambda v: container.id.startswith(v))
        and (
            "name" not in wanted
            or filters.name_matches(wanted["name"], "/" + container.name)
            or filters.name_matches(wanted["name"], container.name)
        )
        and every("status", lambda v: container.state.status == v)
        and every("exited", lambda v: container.state.status == "exited" and str(container.state.exit_code) == v)
        and every("ancestor", lambda v: _descends(daemon, container, v))
        and every("volume", lambda v: any(v in (m.name, m.target, m.source) for m in record.mounts))
        and every("network", lambda v: any(v in (name, networks.get(name)) for name in record.networks))
        and every("health", lambda v: v == health)
        and every("publish", lambda v: v.partition("/")[0] in {b["HostPort"] for bindings in container.ports.values() for b in bindings})
        and every("expose", lambda v: v.partition("/")[0] in {p.partition("/")[0] for p in record.config.get("ExposedPorts") or {}})
        and every("before", lambda v: record.created < created_of(v))
        and every("since", lambda v: record.created > created_of(v))
        and every("is-task", lambda v: v.lower() in ("false", "0"))
    )


def _descends(daemon: Daemon, container: Container, text: str) -> bool:
    with daemon.store() as store, contextlib.suppress(NotFound, BadRequest):
        return find_image(store, text).id == container.record.image
    return container.record.image_name == text


def inspect(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    record = container.record
    networks = daemon.networks.endpoints(container)
    first: dict[str, Any] = next(iter(networks.values()), {})
    document: dict[str, Any] = {
        "Id": container.id, "Created": clock.rfc3339(record.created), "Path": record.path, "Args": record.args, "State": container.state_document(),
        "Image": record.image, "ResolvConfPath": "", "HostnamePath": "", "HostsPath": "", "LogPath": "", "Name": "/" + container.name,
        "RestartCount": container.state.restarts, "Driver": "lamina", "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "",
        "ExecIDs": daemon.execs.of(container) or None, "HostConfig": record.host, "GraphDriver": {"Name": "lamina", "Data": None},
        "Mounts": mount_documents(daemon, container), "Config": record.config,
        "NetworkSettings": {
            "Bridge": "", "SandboxID": "", "HairpinMode": False, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "Ports": {port: bindings or None for port, bindings in container.ports.items()}, "SandboxKey": "", "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None, "EndpointID": "", "Gateway": first.get("Gateway", ""), "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0, "IPAddress": first.get("IPAddress", ""), "IPPrefixLen": first.get("IPPrefixLen", 0), "IPv6Gateway": "",
            "MacAddress": "", "Networks": networks,
        },
    }  # fmt: skip
    if request.query.flag("size"):
        document["SizeRw"] = copies.size_of(container)
        document["SizeRootFs"] = document["SizeRw"] + _image_size(daemon, container)
    return answer(document)


# Life


def start(daemon: Daemon, request: Request, name: str) -> Reply:
    return _done(lambda: running.start(daemon, daemon.containers.find(name)))


def _done(act: Callable[[], None]) -> Reply:
    try:
        act()
    except running.AlreadyDone:
        return nothing(304)
    return nothing()


def _timeout(request: Request) -> float | None:
    return float(request.query.integer("t")) if "t" in request.query and request.query.get("t") else None


def stop(daemon: Daemon, request: Request, name: str) -> Reply:
    return _done(lambda: running.stop(daemon, daemon.containers.find(name), _timeout(request)))


def restart(daemon: Daemon, request: Request, name: str) -> Reply:
    running.restart(daemon, daemon.containers.find(name), _timeout(request))
    return nothing()


def kill(daemon: Daemon, request: Request, name: str) -> Reply:
    number = running.number_of(request.query.get("signal"))
    container = daemon.containers.find(name)
    try:
        running.kill(daemon, container, number)
    except Conflict as error:
        raise Conflict(error.message.replace(f"container: {container.id}", f"container: {name}", 1)) from None
    if number == 9:
        running.wait_for_end(container, container.run, 10.0)
    return nothing()


def pause(daemon: Daemon, request: Request, name: str) -> Reply:
    running.pause(daemon, daemon.containers.find(name))
    return nothing()


def unpause(daemon: Daemon, request: Request, name: str) -> Reply:
    running.unpause(daemon, daemon.containers.find(name))
    return nothing()


def rename(daemon: Daemon, request: Request, name: str) -> Reply:
    daemon.containers.rename(daemon.containers.find(name), request.query.get("name"))
    return nothing()


def remove(daemon: Daemon, request: Request, name: str) -> Reply:
    daemon.containers.remove(daemon.containers.find(name), force=request.query.flag("force"), volumes=request.query.flag("v"))
    return nothing()


def prune(daemon: Daemon, request: Request) -> Reply:
    wanted = filters.parse(request.query, ("label", "label!", "until"))
    deleted, freed = [], 0
    border = min([clock.parse(text, daemon.now()) or 0.0 for text in wanted.get("until", ())], default=None)
    for container in daemon.containers.all():
        if container.state.status in ("running", "paused", "restarting") or not filters.labels_match(
            wanted, container.record.config["Labels"]
        ):
            continue
        if border is not None and container.record.created >= border:
            continue
        size = copies.size_of(container)
        with contextlib.suppress(Conflict):
            daemon.containers.remove(container)
            deleted.append(container.id)
            freed += size
    daemon.events.emit("container", "prune", "", {"reclaimed": str(freed)})
    return answer({"ContainersDeleted": deleted or None, "SpaceReclaimed": freed})


_UPDATED = (
    "Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems", "PidsLimit",
)  # fmt: skip


def update(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    body = {key: value for key, value in request.json().items() if value and key in (*_UPDATED, "RestartPolicy")}
    policy = body.pop("RestartPolicy", None) or {}
    warnings = creating.unheld(body, groups.possible)
    if policy.get("Name"):
        creating.check_policy(policy, automatic=bool(container.record.host["AutoRemove"]))
    with container.changed:
        running.limit(container, spec.limits_of(body))
        container.record.host.update(body)
        if policy.get("Name"):
            container.record.host["RestartPolicy"] = policy
        container.save()
    daemon.events.emit("container", "update", container.id, container.attributes())
    return answer({"Warnings": warnings or None})


def wait(daemon: Daemon, request: Request, name: str) -> Reply:
    """The head goes out at once: `docker run` starts the container only then."""
    container = daemon.containers.find(name)
    condition = request.query.get("condition") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise BadRequest(f'invalid condition: "{condition}"')
    with container.changed:
        run = container.run if container.running else container.run + 1
        finished = condition == "not-running" and not container.running and container.state.status != "restarting"

    def write(out: Outlet) -> None:
        gone: list[bool] = []

        def leave() -> None:
            gone.append(True)
            container.notify()

        out.on_gone(leave)
        with container.changed:
            if condition == "removed":
                container.changed.wait_for(lambda: bool(gone) or container.removed)
            elif not finished:
                container.changed.wait_for(lambda: bool(gone) or container.ended >= run or container.removed)
        if gone:
            raise ClientGone
        if condition == "removed":
            _wait_for_files(container)
        body: dict[str, Any] = {"Error": None, "StatusCode": container.state.exit_code}
        if container.state.error and container.state.started is None:
            body["Error"] = {"Message": container.state.error}
        out.write(json.dumps(body).encode() + b"\n")

    return Stream(write)


def _wait_for_files(container: Container) -> None:
    """`removed` is said when it can be seen: the files go after the mark."""
    deadline = time.monotonic() + 10
    while container.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.002)


def resize(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    rows, columns = request.query.integer("h"), request.query.integer("w")
    with container.changed:
        if not container.running:
            raise Conflict(f"Container {container.id} is not running")
        execs.resize(container.process, rows, columns)
    return nothing(200)


def top(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    process = container.process
    if not container.running or process is None:
        raise Conflict(f"Container {container.id} is not running")
    return answer({"Titles": processes.TITLES, "Processes": processes.table(process.pid)})


# Files


def _stat_header(found: dict[str, Any]) -> tuple[str, str]:
    document = {name: found[name] for name in ("name", "size", "mode", "linkTarget")}
    document["mtime"] = clock.rfc3339(found["mtime"] / 10**9)
    return "X-Docker-Container-Path-Stat", base64.b64encode(json.dumps(document).encode()).decode()


def _path(request: Request) -> str:
    path = request.query.get("path")
    if not path:
        raise BadRequest("missing parameter path")
    return path


def archive_get(daemon: Daemon, request: Request, name: str) -> Reply:
    """Also HEAD: the stat alone."""
    container = daemon.containers.find(name)
    path = _path(request)
    header = _stat_header(copies.stat(daemon, container, path))
    if request.method == "HEAD":
        return Answer(200, b"", "", (header,))
    return Stream(lambda out: copies.get(daemon, container, path, out), "application/x-tar", headers=(header,))


def archive_put(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    if container.record.host["ReadonlyRootfs"]:
        raise BadRequest("container rootfs is marked read-only", 403)
    copies.put(daemon, container, _path(request), request.body, keep_kind=request.query.flag("noOverwriteDirNonDir"))
    return nothing(200)


def export(daemon: Daemon, request: Request, name: str) -> Reply:
    container = daemon.containers.find(name)
    return Stream(lambda out: copies.export(daemon, container, out), "application/x-tar")


def changes(daemon: Daemon, request: Request, name: str) -> Reply:
    return answer(copies.changes(daemon, daemon.containers.find(name)) or None)
