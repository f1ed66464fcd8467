"""What a client asks of the Dockerfile front end and of exporters, from its options to a BuildRequest. Pure."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from lamina.dockerfile.csvfields import csv_fields
from lamina.dockerfile.instructions import Document, Run
from lamina.engine.contextfiles import is_remote
from lamina.server.errors import BadRequest

if TYPE_CHECKING:
    from lamina.engine.request import Output

LLB_REFUSED = "LLB definitions are not built here: only the Dockerfile front end (dockerfile.v0) is"
_SESSION = "http://buildkit-session"
_IMAGE_TYPES = ("image", "moby", "registry", "")
_KEYS = ("access_key_id", "secret_access_key", "session_token")
_FILE_TYPES = ("local", "tar", "oci", "docker")


class Export(msgspec.Struct, frozen=True):
    """One exporter. `id` is the client's name for it, "" from clients that have one at most."""

    type: str
    attrs: Mapping[str, str] = {}
    id: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.strip() for name in self.attrs.get("name", "").split(",") if name.strip()))

    @property
    def pushes(self) -> bool:
        return self.type == "registry" or (self.type in _IMAGE_TYPES and self.attrs.get("push") in ("true", "1"))

    @property
    def is_image(self) -> bool:
        return self.type in _IMAGE_TYPES


class Asked(msgspec.Struct, frozen=True):
    """`attrs` is the front end's map: filename, target, build-arg:NAME, …"""

    attrs: Mapping[str, str]
    exports: tuple[Export, ...] = ()
    cache_from: tuple[Mapping[str, str], ...] = ()  # with "type"
    cache_to: tuple[Mapping[str, str], ...] = ()
    entitlements: tuple[str, ...] = ()
    traced: tuple[str, str] = ("", "")  # the client's traceparent and tracestate

    @property
    def filename(self) -> str:
        return self.attrs.get("filename") or "Dockerfile"

    @property
    def upload(self) -> str | None:
        """The path below which the client's session has the context as an archive."""
        place = self.attrs.get("context", "")
        return place.removeprefix(_SESSION) if place.startswith(_SESSION + "/") else None

    @property
    def remote(self) -> str | None:
        """A repository or URL that is the context."""
        place = self.attrs.get("context", "")
        if not place:
            return None
        if not _is_elsewhere(place):
            raise BadRequest(f"the context {place!r} is neither the client's folder nor a repository or URL")
        return place

    def prefixed(self, prefix: str) -> dict[str, str]:
        return {name.removeprefix(prefix): value for name, value in self.attrs.items() if name.startswith(prefix)}

    def platforms(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.attrs.get("platform", "").split(",") if part.strip())

    def no_cache(self) -> tuple[bool, tuple[str, ...]]:
        """(everything, the stages that are built anew)"""
        if "no-cache" not in self.attrs:
            return False, ()
        stages = tuple(part.strip() for part in self.attrs["no-cache"].split(",") if part.strip())
        return not stages, stages

    def hosts(self) -> tuple[tuple[str, str], ...]:
        found = []
        for text in fields(self.attrs.get("add-hosts", ""), "add-hosts"):
            name, _, address = text.partition("=")
            if not name or not address:
                raise BadRequest(f"bad format for add-host: {text!r}")
            found.append((name, "127.0.0.1" if address == "host-gateway" else address))
        return tuple(found)

    def shm_size(self) -> int:
        text = self.attrs.get("shm-size", "")
        if text and (not text.isdecimal() or len(text) > 19):
            raise BadRequest(f"shm-size={text[:80]}: not a number")
        return int(text or 0)

    def ulimits(self) -> tuple[tuple[str, int, int], ...]:
        found = []
        for text in fields(self.attrs.get("ulimit", ""), "ulimit"):
            name, _, limits = text.partition("=")
            soft, _, hard = limits.partition(":")
            try:
                found.append((name, int(soft), int(hard or soft)))
            except ValueError:
                raise BadRequest(f"ulimit {text!r} is not NAME=SOFT[:HARD]") from None
        return tuple(found)

    def named_contexts(self) -> tuple[dict[str, str], dict[str, str]]:
        """(name -> the client's folder, name -> what the engine fetches itself)"""
        local, other = {}, {}
        for name, place in self.prefixed("context:").items():
            kind, _, rest = place.partition(":")
            if kind == "local":
                local[name] = rest
            elif kind == "input":
                raise BadRequest(f"the named context {name} is another target's result: {LLB_REFUSED}")
            elif kind == "oci-layout":
                raise BadRequest(
                    f"the named context {name} is an OCI layout at the client: load it into the engine and name the image instead"
                )
            elif place.startswith("docker-image://") or _is_elsewhere(place):
                other[name] = place
            else:
                raise BadRequest(f"the named context {name}={place!r} is neither a folder of the client nor an image, repository or URL")
        return local, other


def _is_elsewhere(place: str) -> bool:
    """A repository or URL; what lies on the engine's own machine is no client's to name."""
    return is_remote(place) and not place.startswith("file://")


def check(asked: Asked, frontend: str, *, privileged: bool) -> None:
    """Refuse what is not built here, in one line. BadRequest. `privileged`: clients may ask for steps with all rights."""
    if "security.insecure" in asked.entitlements and not privileged:
        raise BadRequest("security.insecure is refused: this engine was started without --allow-privileged")
    source = asked.attrs.get("source", "").partition("@")[0].rpartition(":")[0] or asked.attrs.get("source", "")
    if frontend == "gateway.v0" and source.removeprefix("docker.io/") not in ("docker/dockerfile", "docker/dockerfile-upstream"):
        raise BadRequest(f"the front end {asked.attrs.get('source')!r} is not run here: only the built-in one for Dockerfiles is")
    if frontend not in ("dockerfile.v0", "gateway.v0"):
        raise BadRequest(f"there is no front end {frontend!r}: only dockerfile.v0 is known")
    if "requestid" in asked.attrs:
        raise BadRequest(f"the request {asked.attrs['requestid']!r} to the front end is not known here")
    for export in asked.exports:
        if export.type not in (*_IMAGE_TYPES, *_FILE_TYPES, "cacheonly"):
            raise BadRequest(f"there is no exporter {export.type!r}: image, registry, local, tar, oci and docker are known")
        if export.type in ("oci", "local", "tar", "docker") and export.attrs.get("tar") == "false":
            raise BadRequest(f"type={export.type},tar=false is not supported: leave tar=false away")


def outputs(exports: tuple[Export, ...]) -> tuple[tuple[str, ...], tuple[Output, ...]]:
    """(names of the image that is kept, what the engine itself does)"""
    from lamina.engine.request import Output

    names = tuple(dict.fromkeys(name for export in exports if export.is_image for name in export.names))
    done = [Output("image")]
    for export in exports:
        if export.pushes:
            attrs = [("name", ",".join(export.names))] if export.names else []
            if export.attrs.get("compression") in ("gzip", "zstd"):
                attrs.append(("compression", export.attrs["compression"]))
            done.append(Output("registry", None, tuple(attrs)))
    return names, tuple(done)


def base_names(text: str, name: str) -> tuple[str, ...]:
    """The images that a Dockerfile begins with, as they are written."""
    from lamina.dockerfile import parse

    stages = parse(text, name).stages
    known = {stage.name for stage in stages} | {"scratch", ""}
    return tuple(dict.fromkeys(stage.from_.base for stage in stages if stage.from_.base.lower() not in known))


def agent_names(document: Document) -> set[str]:
    """The ssh agents that the file's RUN mounts name; a name with a variable in it is not among them."""
    found = set()
    for mount in _mounts(document):
        values = {name.lower(): value or "" for name, value in mount}
        if values.get("type") == "ssh":
            found.add(values.get("id") or "default")
    return found


def _mounts(document: Document) -> Iterator[tuple[tuple[str, str | None], ...]]:
    for stage in document.stages:
        for instruction in stage.instructions:
            if isinstance(instruction, Run):
                yield from (mount.pairs for mount in instruction.mounts)


def exclude_patterns(text: str | None) -> list[str]:
    """The patterns of an ignore file as clients take them: comments and blanks gone, paths cleaned."""
    found = []
    for line in (text or "").removeprefix("\ufeff").splitlines():
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        bang = pattern.startswith("!")
        pattern = posixpath.normpath(pattern[1:].strip() if bang else pattern)
        pattern = pattern.lstrip("/") or "."
        found.append("!" + pattern if bang else pattern)
    return found


def fields(text: str, name: str) -> list[str]:
    """The comma separated fields of the option `name` that are not empty. BadRequest."""
    try:
        return [stripped for field in csv_fields(text) if (stripped := field.strip())]
    except ValueError as error:
        raise BadRequest(f"{name}={text[:80]!r}: {error}") from None


def cache_entries(text: str) -> tuple[Mapping[str, str], ...]:
    """The front end's `cache-imports` (JSON) as Asked has them."""
    try:
        rows = json.loads(text) if text else []
    except (ValueError, RecursionError):
        raise BadRequest("cache-imports is not JSON") from None
    found = []
    for row in rows if isinstance(rows, list) else []:
        attrs = row.get("Attrs") if isinstance(row, dict) else None
        pairs = attrs if isinstance(attrs, dict) else {}
        found.append({"type": str(row.get("Type", "")) if isinstance(row, dict) else "", **{str(k): str(v) for k, v in pairs.items()}})
    return tuple(found)


def once(entries: tuple[Mapping[str, str], ...]) -> tuple[Mapping[str, str], ...]:
    """Clients name a cache in the build and in the front end's request."""
    return tuple({tuple(sorted(entry.items())): entry for entry in entries}.values())


def without_keys(entry: Mapping[str, str], keys: dict[str, str]) -> Mapping[str, str]:
    """An S3 cache's entry without its credentials, which go to `keys` under the names of AWS's variables: what names a cache is told in messages."""
    keys |= {f"AWS_{name.upper()}": value for name, value in entry.items() if name in _KEYS and value}
    return {name: value for name, value in entry.items() if name not in _KEYS}
