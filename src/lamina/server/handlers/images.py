"""/images: list, inspect, history, tag, remove, save, load, import, pull, push, prune."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference
from lamina.server import clock, filters, logins
from lamina.server.daemon import Daemon
from lamina.server.errors import BadRequest, Conflict, NotFound
from lamina.server.http.messages import Outlet, Reply, Request, Stream, answer
from lamina.server.rows import RowWriter, row_stream

if TYPE_CHECKING:
    from lamina.store.local import LocalStore
    from lamina.store.refs import Image

_FILTERS = ("dangling", "label", "label!", "before", "since", "reference", "until")


def find(store: LocalStore, text: str) -> Image:
    """By name, digest, id or its beginning. NotFound in docker's words."""
    from lamina.engine.images.finding import find_image
    from lamina.store.refs import ImageNotFound

    text = text.removeprefix("/")
    shown = text
    try:
        reference = Reference.parse(text)
        if reference.digest is not None:
            found = store.images.by_id(reference.digest) or _pulled(store, reference)
            if found is not None and _has_digest(store, found, reference):
                return found
            raise NotFound(f"No such image: {reference.familiar}")
        shown = reference.with_default_tag().familiar
    except NotFound:
        raise
    except LaminaError as error:
        if text.lower() != text and not text.startswith("sha256:"):
            raise BadRequest("invalid reference format: repository name must be lowercase") from error
    try:
        return find_image(store, text)
    except ImageNotFound:
        raise NotFound(f"No such image: {shown}") from None


def _pulled(store: LocalStore, reference: Reference) -> Image | None:
    """By the digest of the index that an image was chosen from."""
    return next((image for image in store.images.all() if reference.familiar in digests(store, image)), None)


def _has_digest(store: LocalStore, image: Image, reference: Reference) -> bool:
    """Whether the image came from this repository: a digest alone says nothing about a name."""
    if any(Reference.parse(name).name == reference.name for name in image.names):
        return True
    plain = f"{reference.name}@{reference.digest}"
    return store.facts.remote(plain, image.platform) is not None


def familiar(name: str) -> str:
    return Reference.parse(name).familiar


def digests(store: LocalStore, image: Image) -> list[str]:
    """RepoDigests: what the names of a pulled or pushed image had in their registries."""
    found = []
    for name in image.names:
        remote = store.facts.remote(name, image.platform)
        if remote is not None:
            found.append(f"{familiar(name).rpartition(':')[0]}@{remote.manifest}")
    return list(dict.fromkeys(found))


def _config(store: LocalStore, image: Image) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.blobs.read(image.id))
    return found


def labels(store: LocalStore, image: Image) -> dict[str, str] | None:
    return (_config(store, image).get("config") or {}).get("Labels")


def list_entry(store: LocalStore, image: Image, version: tuple[int, int]) -> dict[str, Any]:
    tags, marks = [familiar(name) for name in image.names], digests(store, image)
    if version < (1, 43) and not tags and not marks:
        tags, marks = ["<none>:<none>"], ["<none>@<none>"]
    entry: dict[str, Any] = {
        "Containers": -1,
        "Created": int(image.created),
        "Id": image.id,
        "Labels": labels(store, image),
        "ParentId": "",
        "RepoDigests": marks,
        "RepoTags": tags,
        "SharedSize": -1,
        "Size": image.size,
    }
    if version < (1, 44):
        entry["VirtualSize"] = image.size
    return entry


def index(daemon: Daemon, request: Request) -> Reply:
    wanted = filters.parse(request.query, _FILTERS)
    if request.query.get("filter"):
        wanted["reference"] = [*wanted.get("reference", []), request.query.get("filter")]
    with daemon.store() as store:
        return answer([list_entry(store, image, request.version) for image in _chosen(daemon, store, wanted)])


def _chosen(daemon: Daemon, store: LocalStore, wanted: Mapping[str, list[str]]) -> list[Image]:
    images = store.images.all()
    if "dangling" in wanted:
        dangling = filters.truth(wanted["dangling"], "dangling")
        images = [image for image in images if (not image.names) == dangling]
    for name in ("before", "since"):
        for text in wanted.get(name, ()):
            border = find(store, text)
            images = [i for i in images if (i.created < border.created if name == "before" else i.created > border.created)]
    for text in wanted.get("until", ()):
        until = clock.parse(text, daemon.now()) or 0.0
        images = [image for image in images if image.created < until]
    if "label" in wanted or "label!" in wanted:
        images = [image for image in images if filters.labels_match(wanted, labels(store, image))]
    if "reference" in wanted:
        images = [_renamed(image, wanted["reference"]) for image in images]
        images = [image for image in images if image.names]
    return images


def _renamed(image: Image, patterns: list[str]) -> Image:
    """With those of its names that are asked for."""
    import msgspec

    names = tuple(name for name in image.names if any(filters.reference_matches(_familiar_pattern(p), familiar(name)) for p in patterns))
    return msgspec.structs.replace(image, names=names)


def _familiar_pattern(pattern: str) -> str:
    return pattern.removeprefix("docker.io/").removeprefix("library/")


def inspect(daemon: Daemon, request: Request, name: str) -> Reply:
    from lamina.engine.images.finding import inspect as describe

    with daemon.store() as store:
        image = find(store, name)
        found = describe(store, image)
        found["RepoDigests"] = digests(store, image)
        config = found["Config"]
        found["Config"] = {
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "Tty": False,
            "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None, "Image": "", "Volumes": None, "WorkingDir": "", "Entrypoint": None,
            "OnBuild": None, "Labels": None, **config,
        }  # fmt: skip
        found["Parent"] = ""
        found["DockerVersion"] = ""
        found["GraphDriver"] = {"Name": "lamina", "Data": None}
        found["Metadata"] = {"LastTagTime": clock.NEVER}
        if request.version < (1, 44):
            found["VirtualSize"] = found["Size"]
        return answer(found)


def history(daemon: Daemon, request: Request, name: str) -> Reply:
    from lamina.engine.images.finding import history as steps

    with daemon.store() as store:
        image = find(store, name)
        rows: list[dict[str, Any]] = [
            {
                "Comment": entry.comment,
                "Created": int(clock.parse(entry.created or "", 0.0) or 0),
                "CreatedBy": entry.created_by,
                "Id": "<missing>",
                "Size": size,
                "Tags": None,
            }
            for entry, size in steps(store, image)
        ]
    if rows:
        rows[0] |= {"Id": image.id, "Tags": [familiar(n) for n in image.names] or None}
    return answer(rows)


def tag(daemon: Daemon, request: Request, name: str) -> Reply:
    with daemon.store() as store:
        image = find(store, name)
        target = target_name(request)
        store.images.tag(image.id, [target])
    daemon.events.emit("image", "tag", image.id, {"name": familiar(target)})
    return answer(None, 201)


def target_name(request: Request) -> str:
    """`repo=` and `tag=` as a full name. BadRequest."""
    text = request.query.get("repo")
    if request.query.get("tag"):
        text += ":" + request.query.get("tag")
    return full_name(text)


def full_name(text: str) -> str:
    try:
        reference = Reference.parse(text).with_default_tag()
    except LaminaError as error:
        lower = "repository name must be lowercase" if text.lower() != text else ""
        raise BadRequest(f"invalid reference format{': ' if lower else ''}{lower}") from error
    if reference.digest is not None:
        raise BadRequest("refusing to create a tag with a digest reference")
    return str(reference)


def remove(daemon: Daemon, request: Request, name: str) -> Reply:
    force = request.query.flag("force")
    with daemon.store() as store:
        image = find(store, name)
        full = _name_of(image, name)
        users = daemon.containers.of_image(image.id)
        if "@" in name and full:
            return answer([{"Untagged": name.removeprefix("/")}])  # the digest is a fact about the tag, which stays
        rows = _untag(daemon, store, image, full, name, users, force) if full else _remove_all(daemon, store, image, users, force)
    if any("Deleted" in row for row in rows):
        daemon.collect()
    for row in rows:
        if "Untagged" in row and "@" not in row["Untagged"]:
            daemon.events.emit("image", "untag", image.id, {"name": row["Untagged"]})
        if "Deleted" in row:
            daemon.events.emit("image", "delete", image.id, {"name": image.id})
    return answer(rows)


def _name_of(image: Image, text: str) -> str:
    """The full name when `text` is a name of the image; "" when it is an id."""
    try:
        reference = Reference.parse(text.removeprefix("/")).with_default_tag()
    except LaminaError:
        return ""
    if reference.digest is not None:
        return next((n for n in image.names if Reference.parse(n).name == reference.name), "")
    return str(reference) if str(reference) in image.names else ""


def _untag(daemon: Daemon, store: LocalStore, image: Image, full: str, text: str, users: list[Any], force: bool) -> list[dict[str, str]]:
    from lamina.store.refs import Image as Row

    marks = digests(store, image)
    last = image.names == (full,)
    if last and users and not force:
        raise Conflict(
            f'conflict: unable to remove repository reference "{text}" (must force) - container {users[0].id[:12]} '
            f"is using its referenced image {image.id[7:19]}"
        )
    removed = store.images.untag(full)
    rows = [{"Untagged": familiar(full)}]
    if image.id not in removed.deleted:
        return rows
    rows += [{"Untagged": mark} for mark in marks]
    if users:
        # It goes on without a name for its containers.
        store.images.put(Row(image.id, image.manifest, image.platform, image.created, image.size, image.layers, image.blobs))
        return rows
    return [*rows, {"Deleted": image.id}]


def _remove_all(daemon: Daemon, store: LocalStore, image: Image, users: list[Any], force: bool) -> list[dict[str, str]]:
    short = image.id[7:19]
    running = next((container for container in users if container.running), None)
    if running is not None:
        raise Conflict(
            f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container {running.id[:12]}"
        )
    if users and not force:
        raise Conflict(f"conflict: unable to delete {short} (must be forced) - image is being used by stopped container {users[0].id[:12]}")
    repositories = {Reference.parse(name).name for name in image.names}
    if len(repositories) > 1 and not force:
        raise Conflict(f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories")
    marks = digests(store, image)
    store.images.remove(image.id, force=True)
    return [*({"Untagged": familiar(name)} for name in image.names), *({"Untagged": mark} for mark in marks), {"Deleted": image.id}]


# Archives


def save(daemon: Daemon, request: Request, name: str = "") -> Reply:
    """Names that were given are in the archive; ids are without names, and take the cache of their builds along."""
    texts = [name] if name else [part for value in request.query.all("names") for part in value.split(",") if part]
    if not texts:
        raise BadRequest("no image was named")
    with daemon.store() as store:
        chosen: dict[Digest, tuple[Image, list[str]]] = {}
        for text in texts:
            image = find(store, text)
            names = chosen.setdefault(image.id, (image, []))[1]
            full = _name_of(image, text)
            if full and full not in names:
                names.append(full)
    records = daemon.engine.records if any(not names for _, names in chosen.values()) else None

    def write(out: Outlet) -> None:
        from lamina.engine.exporters.export import save as write_archive

        with daemon.store() as store, io.BufferedWriter(_Raw(out), 1 << 18) as buffered:
            write_archive(store, list(chosen.values()), buffered, records)

    return Stream(write, "application/x-tar")


class _Raw(io.RawIOBase):
    """An outlet as a file."""

    def __init__(self, out: Outlet) -> None:
        self._out = out

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        return self._out.write(bytes(data))  # type: ignore[call-overload]  # RawIOBase's buffer protocol type is only in typeshed's private module


def load(daemon: Daemon, request: Request) -> Reply:
    from lamina.engine.engine import own_platform
    from lamina.engine.images.importing import load_with_cache

    with daemon.store() as store:
        found = load_with_cache(store, request.body, own_platform(), daemon.engine.records)

    def run(rows: RowWriter) -> None:
        for image in found.images:
            for name in image.names:
                rows.row(stream=f"Loaded image: {familiar(name)}\n")
            if not image.names:
                rows.row(stream=f"Loaded image ID: {image.id}\n")
            daemon.events.emit("image", "load", image.id, {"name": familiar(image.names[0]) if image.names else image.id})
        for wrong in found.wrong:
            rows.row(stream=f"A cached step was not taken over: {wrong}\n")

    return row_stream(run)


def create(daemon: Daemon, request: Request) -> Reply:
    """Pull or import."""
    return _import(daemon, request) if request.query.get("fromSrc") else _pull(daemon, request)


def _import(daemon: Daemon, request: Request) -> Reply:
    from lamina.engine.engine import own_platform
    from lamina.engine.images.importing import import_rootfs
    from lamina.oci.config import ContainerConfig, ImageConfig
    from lamina.server.handlers.changes import apply_changes

    source = request.query.get("fromSrc")
    if source != "-":
        raise BadRequest(f"import from {source}: only the request's body is taken (fromSrc=-)")
    names = [target_name(request)] if request.query.get("repo") else []
    platform = own_platform()
    config = apply_changes(ContainerConfig(), request.query.all("changes"))
    image_config = ImageConfig(
        created=daemon.rfc3339(), os=platform.os, architecture=platform.architecture, variant=platform.variant, config=config
    )
    with daemon.store() as store:
        image = import_rootfs(store, request.body, image_config, names, label="-", comment=request.query.get("message"))
    daemon.events.emit("image", "import", image.id, {"name": familiar(names[0]) if names else image.id})
    return row_stream(lambda rows: rows.row(status=image.id))


def wanted_reference(name: str, tag: str) -> Reference:
    if tag:
        name = f"{name}@{tag}" if tag.startswith(("sha256:", "sha512:")) else f"{name}:{tag}"
    try:
        return Reference.parse(name)
    except LaminaError as error:
        raise BadRequest(f"invalid reference format: {error.message}") from error


def _pull(daemon: Daemon, request: Request) -> Reply:
    from lamina.engine.engine import own_platform
    from lamina.oci.platform import Platform
    from lamina.registry.errors import RegistryNotFound
    from lamina.registry.referrers import tags

    reference = wanted_reference(request.query.get("fromImage"), request.query.get("tag"))
    platform = Platform.parse(request.query.get("platform")) if request.query.get("platform") else own_platform()
    client = daemon.registry_for(logins.one(request.headers.get("x-registry-auth", ""), reference.registry))
    try:
        every = reference.tag is None and reference.digest is None
        references = [Reference.parse(f"{reference.name}:{one}") for one in tags(client.session, reference)] if every else [reference]
        if not every:
            client.digest_of(reference)
    except RegistryNotFound as error:
        raise NotFound(f"manifest for {reference.familiar} not found: manifest unknown: {error.message}") from error

    def run(rows: RowWriter) -> None:
        from lamina.server.pulling import pull_rows

        for one in references:
            pull_rows(daemon, client, one, platform, rows)

    return row_stream(run)


def push(daemon: Daemon, request: Request, name: str) -> Reply:
    from lamina.server.pulling import push_rows

    reference = wanted_reference(name, request.query.get("tag"))
    client = daemon.registry_for(logins.one(request.headers.get("x-registry-auth", ""), reference.registry))
    return row_stream(lambda rows: push_rows(daemon, client, reference, rows))


def prune(daemon: Daemon, request: Request) -> Reply:
    """Images without a name; with dangling=false all that no container has."""
    wanted = filters.parse(request.query, _FILTERS)
    everything = "dangling" in wanted and not filters.truth(wanted.pop("dangling"), "dangling")
    deleted: list[dict[str, str]] = []
    freed = 0
    with daemon.store() as store:
        for image in _chosen(daemon, store, wanted):
            if (image.names and not everything) or daemon.containers.of_image(image.id):
                continue
            store.images.remove(image.id, force=True)
            deleted += [{"Untagged": familiar(name)} for name in image.names] + [{"Deleted": image.id}]
            freed += image.size
    daemon.collect()
    daemon.events.emit("image", "prune", "", {"reclaimed": str(freed)})
    return answer({"ImagesDeleted": deleted or None, "SpaceReclaimed": freed})


def search(daemon: Daemon, request: Request) -> Reply:
    """Of the images that are here: no index is asked."""
    term = request.query.get("term")
    with daemon.store() as store:
        names = sorted({familiar(name).rpartition(":")[0] for image in store.images.all() for name in image.names})
    return answer(
        [{"name": n, "description": "", "star_count": 0, "is_official": "/" not in n, "is_automated": False} for n in names if term in n]
    )


def distribution(daemon: Daemon, request: Request, name: str) -> Reply:
    from lamina.oci.manifest import Index

    reference = wanted_reference(name, "").with_default_tag()
    client = daemon.registry_for(logins.one(request.headers.get("x-registry-auth", ""), reference.registry))
    document = client.document(reference)
    entries = document.value.manifests if isinstance(document.value, Index) else ()
    platforms = [{"architecture": e.platform.architecture, "os": e.platform.os} for e in entries if e.platform is not None]
    return answer(
        {"Descriptor": {"mediaType": document.media_type, "digest": document.digest, "size": len(document.raw)}, "Platforms": platforms}
    )
