"""`lamina rebase`: an image's own layers on another base, nothing is run. Done only where a build would come to the same files and settings as
far as that can be seen: the settings that instructions saw are equal, and no path that the image's layers touch differs between the bases.

What cannot be seen is what a RUN has read from the base without writing there: `runs` says how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.origins import BaseUse, Origin, content_of, read
from lamina.engine.images.layers import Fetch, ensure_layers
from lamina.engine.images.recording import record_built, stored_layers
from lamina.layer.entry import Entry, Kind
from lamina.layer.scan import entries
from lamina.layer.view import LayerView
from lamina.oci import typed
from lamina.oci.config import ContainerConfig, History, ImageConfig, RootFs, encode_config, parse_config
from lamina.oci.digest import Digest
from lamina.oci.manifest import Descriptor
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.errors import RegistryError
from lamina.store.local import LocalStore
from lamina.store.protocols import BlobNotFound
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.engine.engine import Engine

_SHOWN = 8
_T = TypeVar("_T")


class CannotRebase(LaminaError):
    """The message says why; `lamina outdated --rebuild` or a build is the way then."""

    code = "freshness/cannot-rebase"
    default_exit = 1


class Rebased(msgspec.Struct, frozen=True):
    """`unchanged`: it stands on that base already. `runs`: RUN instructions whose layers were taken over. `stages`: others that stand on the old
    base or copy from it; what came from them is as it was."""

    image: Image
    base: str
    was: Digest
    now: Digest
    runs: int = 0
    stages: tuple[str, ...] = ()
    unchanged: bool = False


def rebase(engine: Engine, image: Image, names: Sequence[str], *, onto: str | None = None, strict: bool = False) -> Rebased:
    """Give `names` to the image that `image` becomes on `onto` (default: what the tag of its base names now).

    `strict` refuses every image with a RUN above its base. Raises CannotRebase, registry errors.
    """
    store = engine.store
    origin = read(store.origins.of(image.id))
    if origin is None:
        raise CannotRebase("nothing is known of how the image was built", hint="build it once with this lamina")
    use = _base(origin)
    try:
        old = parse_config(store.blobs.read(use.image))
    except BlobNotFound:
        raise CannotRebase(f"its base {use.reference} is not in the store any more", hint="build it again") from None
    config = parse_config(store.blobs.read(image.id))
    count = len(old.diff_ids)
    if config.diff_ids[:count] != old.diff_ids:
        raise CannotRebase(f"its lower layers are not those of {use.reference}", hint="build it again")
    target = _resolve(engine, onto or use.reference.partition("@")[0], Platform.parse(use.platform))
    new = parse_config(store.blobs.read(target.image))
    bases = tuple(target if each == use else each for each in origin.bases)
    if content_of(new) == content_of(old):
        store.images.tag(image.id, names)
        store.origins.put(image.id, names, typed.encode_json(msgspec.structs.replace(origin, bases=bases)))
        return Rebased(image, target.reference, use.manifest, target.manifest, unchanged=True)
    own = _own_history(config, old)
    runs = [entry for entry in own if not entry.empty_layer and entry.created_by.startswith("RUN ")]
    others = _others(origin, use)
    if strict and others:
        raise CannotRebase(f"stages that it copies from use the base too: {', '.join(others)} (--strict)", hint="build it again")
    if strict and runs:
        raise CannotRebase(f"{len(runs)} RUN instructions stand above the base (--strict)", hint="leave out --strict, or build it again")
    _check_settings(old.config, new.config, old, new)
    _check_files(store, engine, image, count, use, target, own)
    merged = msgspec.structs.replace(
        config,
        config=_settings(config.config, old.config, new.config),
        rootfs=RootFs(diff_ids=(*new.diff_ids, *config.diff_ids[count:])),
        history=(*new.history, *own),
    )
    stored = {**stored_layers(store, image), **stored_layers(store, _image(store, target.image))}
    layers = (*_image(store, target.image).layers, *image.layers[count:])
    made = record_built(store, encode_config(merged), list(zip(layers, merged.diff_ids)), names, stored=stored)
    store.origins.put(made.id, names, typed.encode_json(msgspec.structs.replace(origin, bases=bases)))
    return Rebased(made, target.reference, use.manifest, target.manifest, len(runs), others)


def _base(origin: Origin) -> BaseUse:
    """What the last stage stands on, through the stages between."""
    by_name = {stage.name: stage for stage in origin.stages}
    stage = origin.stages[-1] if origin.stages else None
    while stage is not None and stage.on_stage:
        stage = by_name.get(stage.base or "")
    if stage is None or stage.base is None:
        raise CannotRebase("it stands on no base image (scratch)", hint="there is nothing to swap")
    for use in origin.bases:
        if use.reference.partition("@")[0] == stage.base.partition("@")[0] and use.platform == origin.platform:
            return use
    for use in origin.bases:
        if use.reference.partition("@")[0] == stage.base.partition("@")[0]:
            return use
    raise CannotRebase(f"nothing is known of its base {stage.base}", hint="build it again")


def _others(origin: Origin, use: BaseUse) -> tuple[str, ...]:
    """Stages beside those of the image's own layers whose files are the old base's, or were made upon it."""
    by_name = {stage.name: stage for stage in origin.stages}
    own: set[str] = set()
    stage = origin.stages[-1] if origin.stages else None
    while stage is not None:
        own.add(stage.name)
        stage = by_name.get(stage.base or "") if stage.on_stage else None
    name = use.reference.partition("@")[0]
    found = []
    for each in origin.stages:
        stands = each.name not in own and not each.on_stage and each.base is not None and each.base.partition("@")[0] == name
        if stands or any(source.partition("@")[0] == name for source in each.copies):
            found.append(each.name)
    return tuple(found)


def _resolve(engine: Engine, text: str, platform: Platform) -> BaseUse:
    from lamina.engine.bases import Bases

    bases = Bases(engine.store, engine.registry)
    bases.resolve(text, platform, pull_newer=False)
    for why in bases.unanswered.values():
        raise CannotRebase(f"{text} cannot be asked for: {why}")
    ((reference, _), (image, config)) = next(iter(bases.used.items()))
    remote = engine.store.facts.remote(reference, str(platform))
    return BaseUse(reference, str(platform), image.id, image.manifest, content_of(config), remote.manifest if remote else None)


def _image(store: LocalStore, digest: Digest) -> Image:
    found = store.images.by_id(digest)
    if found is None:
        raise CannotRebase(f"the base {digest} is not in the store any more", hint="build the image again")
    return found


def _own_history(config: ImageConfig, old: ImageConfig) -> tuple[History, ...]:
    count = len(old.history)
    if [_said(entry) for entry in config.history[:count]] != [_said(entry) for entry in old.history]:
        raise CannotRebase("its history does not begin with its base's", hint="build it again")
    return config.history[count:]


def _said(entry: History) -> tuple[str, bool]:
    return entry.created_by, entry.empty_layer


# Settings


def _check_settings(old: ContainerConfig, new: ContainerConfig, before: ImageConfig, after: ImageConfig) -> None:
    """What instructions saw of the base must be equal."""
    seen = {
        "ENV": (old.env or (), new.env or ()),
        "USER": (old.user, new.user),
        "WORKDIR": (old.working_dir, new.working_dir),
        "SHELL": (old.shell or (), new.shell or ()),
        "ONBUILD": (old.on_build or (), new.on_build or ()),
        "the platform": ((before.os, before.architecture, before.variant), (after.os, after.architecture, after.variant)),
    }
    differ = [name for name, (one, other) in seen.items() if one != other]
    if differ:
        raise CannotRebase(f"the new base has another {', '.join(differ)}, which its instructions saw", hint="build it again")


def _settings(own: ContainerConfig, old: ContainerConfig, new: ContainerConfig) -> ContainerConfig:
    """What the image took over from its base follows the new one; what it set itself stays."""
    inherited = own.entrypoint == old.entrypoint and own.cmd == old.cmd
    return msgspec.structs.replace(
        own,
        entrypoint=new.entrypoint if inherited else own.entrypoint,
        cmd=new.cmd if inherited else own.cmd,
        labels=_map(own.labels, old.labels, new.labels),
        exposed_ports=_map(own.exposed_ports, old.exposed_ports, new.exposed_ports),
        volumes=_map(own.volumes, old.volumes, new.volumes),
        stop_signal=new.stop_signal if own.stop_signal == old.stop_signal else own.stop_signal,
        healthcheck=new.healthcheck if own.healthcheck == old.healthcheck else own.healthcheck,
    )


def _map(own: Mapping[str, _T] | None, old: Mapping[str, _T] | None, new: Mapping[str, _T] | None) -> dict[str, _T] | None:
    before = old or {}
    kept = {name: value for name, value in (own or {}).items() if name not in before or before[name] != value}
    return {**(new or {}), **kept} or None


# Files


def _check_files(
    store: LocalStore, engine: Engine, image: Image, count: int, use: BaseUse, target: BaseUse, own: Sequence[History]
) -> None:
    def fetch(reference: str) -> Fetch:
        def get(descriptor: Descriptor) -> None:
            for place in dict.fromkeys([*([reference] if "://" not in reference else []), *store.facts.places(descriptor.digest)]):
                try:
                    engine.registry().fetch_blob(Reference.parse(place), descriptor, store.blobs)
                    return
                except RegistryError:
                    continue

        return get

    before = ensure_layers(store, _image(store, use.image), fetch(use.reference))
    after = ensure_layers(store, _image(store, target.image), fetch(target.reference))
    upper = ensure_layers(store, image)[count:]
    texts = [entry.created_by for entry in own if not entry.empty_layer]
    conflicts: list[str] = []
    with LayerView(before, store.flavour) as old, LayerView(after, store.flavour) as new:
        names = any("--chown=" in text and not _numeric(text) for text in texts)
        for path in (b"etc/passwd", b"etc/group") if names else ():
            if _differs(old, new, path):
                conflicts.append(f"/{path.decode()} differs, and --chown names users")
        for folder, text in zip(upper, texts):
            conflicts.extend(_conflicts(folder, store, old, new, run=text.startswith("RUN ")))
            if len(conflicts) > _SHOWN:
                break
    if conflicts:
        shown = "; ".join(dict.fromkeys(conflicts[:_SHOWN])) + ("; …" if len(conflicts) > _SHOWN else "")
        raise CannotRebase(f"its layers touch what differs between the bases: {shown}", hint="build it again: `lamina outdated --rebuild`")


def _numeric(text: str) -> bool:
    return all(word.removeprefix("--chown=").replace(":", "").isdecimal() for word in text.split() if word.startswith("--chown="))


def _conflicts(folder: Path, store: LocalStore, old: LayerView, new: LayerView, *, run: bool) -> list[str]:
    """In words. A COPY replaces what it writes, so only the kind of thing at a path counts; a RUN has seen what was there."""
    found: list[str] = []
    for entry in entries(folder, store.flavour):
        path = entry.path
        there = new.lookup(path) if path else None
        if entry.kind is Kind.DIRECTORY:
            if there is not None and there.kind is not Kind.DIRECTORY:
                found.append(f"{_show(path)} is no folder in the new base")
            elif there is not None and _owner(there) != _owner(old.lookup(path)) and _owner(there) != _owner(entry):
                found.append(f"{_show(path)} has another mode or owner in the new base")
        elif entry.kind is Kind.OPAQUE:
            if _below(old, path) != _below(new, path):
                found.append(f"{_show(path)} was replaced as a whole and differs")
        elif there is not None and there.kind is Kind.DIRECTORY and entry.kind is not Kind.WHITEOUT:
            found.append(f"{_show(path)} is a folder in the new base")
        elif (run or entry.kind is Kind.WHITEOUT) and _differs(old, new, path):
            found.append(f"{_show(path)} differs")
        if len(found) > _SHOWN:
            break
    return found


def _owner(entry: Entry | None) -> tuple[int, int, int] | None:
    return None if entry is None else (entry.mode, entry.uid, entry.gid)


def _below(view: LayerView, path: bytes) -> list[tuple[bytes, str]]:
    return [(name, view.content(name) if entry.kind in (Kind.FILE, Kind.HARDLINK) else entry.kind.value) for name, entry in view.walk(path)]


def _differs(old: LayerView, new: LayerView, path: bytes) -> bool:
    one, other = old.lookup(path), new.lookup(path)
    if one is None or other is None:
        return one is not other
    if (one.kind, _owner(one), one.link, one.xattrs, one.size) != (other.kind, _owner(other), other.link, other.xattrs, other.size):
        return True
    return one.kind in (Kind.FILE, Kind.HARDLINK) and old.content(path) != new.content(path)


def _show(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")
