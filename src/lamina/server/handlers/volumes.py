"""/volumes and /networks."""

from __future__ import annotations

from lamina.server import filters
from lamina.server.daemon import Daemon
from lamina.server.http.messages import Reply, Request, answer, nothing


def volume_index(daemon: Daemon, request: Request) -> Reply:
    wanted = filters.parse(request.query, ("dangling", "driver", "label", "label!", "name"))
    used = {mount.name for container in daemon.containers.all() for mount in container.record.mounts}
    found = [
        daemon.volumes.document(volume)
        for volume in daemon.volumes.all()
        if filters.labels_match(wanted, volume.labels)
        and filters.name_matches(wanted.get("name", ()), volume.name)
        and ("driver" not in wanted or "local" in wanted["driver"])
        and ("dangling" not in wanted or (volume.name not in used) == filters.truth(wanted["dangling"], "dangling"))
    ]
    return answer({"Volumes": found, "Warnings": None})


def volume_create(daemon: Daemon, request: Request) -> Reply:
    body = request.json()
    if body.get("Driver") not in (None, "", "local"):
        from lamina.server.errors import NotFound

        raise NotFound(f'error looking up volume plugin {body["Driver"]}: plugin "{body["Driver"]}" not found')
    name = daemon.volumes.ensure(str(body.get("Name") or ""), body.get("Labels") or {}, body.get("DriverOpts") or {})
    return answer(daemon.volumes.document(daemon.volumes.find(name)), 201)


def volume_inspect(daemon: Daemon, request: Request, name: str) -> Reply:
    return answer(daemon.volumes.document(daemon.volumes.find(name)))


def volume_remove(daemon: Daemon, request: Request, name: str) -> Reply:
    daemon.volumes.remove(name)
    return nothing()


def volume_prune(daemon: Daemon, request: Request) -> Reply:
    """Those that no container has; since API 1.42 named ones only with all=true."""
    wanted = filters.parse(request.query, ("label", "label!", "all"))
    named = request.version < (1, 42) or ("all" in wanted and filters.truth(wanted["all"], "all"))
    used = {mount.name for container in daemon.containers.all() for mount in container.record.mounts}
    deleted, freed = [], 0
    for volume in daemon.volumes.all():
        if volume.name not in used and (named or volume.anonymous) and filters.labels_match(wanted, volume.labels):
            freed += daemon.volumes.remove(volume.name)
            deleted.append(volume.name)
    return answer({"VolumesDeleted": deleted or None, "SpaceReclaimed": freed})


def network_index(daemon: Daemon, request: Request) -> Reply:
    wanted = filters.parse(request.query, ("dangling", "driver", "id", "label", "label!", "name", "scope", "type"))
    found = []
    for network in daemon.networks.all():
        kinds = wanted.get("type", ())
        if (
            filters.labels_match(wanted, network.labels)
            and filters.name_matches(wanted.get("name", ()), network.name)
            and ("id" not in wanted or any(network.id.startswith(one) for one in wanted["id"]))
            and ("driver" not in wanted or network.driver in wanted["driver"])
            and (not kinds or ("builtin" if network.predefined else "custom") in kinds)
        ):
            found.append(daemon.networks.document(network) | {"Containers": {}})
    return answer(found)


def network_create(daemon: Daemon, request: Request) -> Reply:
    return answer({"Id": daemon.networks.create(request.json()).id, "Warning": ""}, 201)


def network_inspect(daemon: Daemon, request: Request, name: str) -> Reply:
    return answer(daemon.networks.document(daemon.networks.find(name)))


def network_remove(daemon: Daemon, request: Request, name: str) -> Reply:
    daemon.networks.remove(daemon.networks.find(name))
    return nothing()


def network_connect(daemon: Daemon, request: Request, name: str) -> Reply:
    body = request.json()
    container = daemon.containers.find(str(body.get("Container") or ""))
    daemon.networks.connect(daemon.networks.find(name), container, body.get("EndpointConfig") or {})
    return nothing(200)


def network_disconnect(daemon: Daemon, request: Request, name: str) -> Reply:
    body = request.json()
    container = daemon.containers.find(str(body.get("Container") or ""))
    daemon.networks.disconnect(daemon.networks.find(name), container, force=bool(body.get("Force")))
    return nothing(200)


def network_prune(daemon: Daemon, request: Request) -> Reply:
    wanted = filters.parse(request.query, ("label", "label!", "until"))
    used = {name for container in daemon.containers.all() for name in container.record.networks}
    deleted = []
    for network in daemon.networks.all():
        if not network.predefined and network.name not in used and filters.labels_match(wanted, network.labels):
            daemon.networks.remove(network)
            deleted.append(network.name)
    return answer({"NetworksDeleted": deleted or None})
