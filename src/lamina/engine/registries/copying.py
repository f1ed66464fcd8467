"""`lamina copy`: an image from one place to another. Between registries and layouts every byte stays what it is: manifests and indexes keep
their digests, blobs stream from one side to the other without passing the store, and what the target has is not sent."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from lamina.cache.remote.parallel import each
from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.archive import opened
from lamina.engine.images.errors import BadArchive, ImageNotFound
from lamina.engine.images.finding import find_image
from lamina.engine.images.importing import pull
from lamina.engine.images.layout import Layout
from lamina.engine.images.recording import record
from lamina.engine.registries.ends import FromLayout, FromRegistry, FromStore, Source, Target, ToArchive, ToLayout, ToRegistry
from lamina.engine.registries.layouts import LayoutFolder
from lamina.engine.registries.packing import Compression, leaving
from lamina.engine.registries.places import BadPlace, Place
from lamina.engine.registries.referring import LIMIT
from lamina.oci.digest import Digest, parse_digest
from lamina.oci.manifest import DOCKER_LIST, OCI_INDEX, Descriptor, Index, Manifest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.oci.selection import choose, offered
from lamina.registry.client import Document, RegistryClient, is_foreign
from lamina.registry.push import Outcome
from lamina.store.local import LocalStore
from lamina.store.refs import Image

_PARALLEL = 4
_MAX_NESTING = 4
OnBlob = Callable[[Descriptor, Outcome], None]


class Copied(msgspec.Struct, frozen=True):
    """`digest`: of the manifest or index at the target. `unchanged`: the target had it under this name."""

    digest: Digest
    sent: int = 0
    sent_bytes: int = 0
    mounted: int = 0
    there: int = 0
    unchanged: bool = False
    referrers: int = 0


def copy(
    store: LocalStore,
    client: RegistryClient,
    source: Place,
    target: Place,
    own: Platform,
    *,
    platform: Platform | None = None,
    compression: Compression = "auto",
    on_blob: OnBlob | None = None,
    with_referrers: bool = False,
) -> Copied:
    """All platforms of the image, or the one of `platform`; the store and docker's archive take one: `platform`, else `own`.

    `with_referrers`: signatures, attestations and SBOMs of what is copied go along, before the name does. `compression` is for layers that have never been compressed. The target names the image when all of it is there. Raises BadPlace,
    registry errors, BadArchive, ImageNotFound.
    """
    with ExitStack() as stack:
        if with_referrers:
            for place in (source, target):
                if place.kind in ("store", "docker-archive"):
                    what = "docker's archive" if place.kind == "docker-archive" else "lamina's store"
                    raise BadPlace(f"{what} keeps nothing that refers to an image", hint="registries and OCI layouts do")
        if target.kind in ("store", "docker-archive"):
            image = _into_store(store, client, source, platform or own, stack)
            _deliver(store, image, source, target)
            return Copied(image.manifest)
        origin = _source(store, client, source, platform or own, compression, stack)
        top = origin.top()
        if platform is not None:
            top = _chosen(origin, top, platform, str(source))
        sink = _target(store, client, target, source, stack)
        return _Copy(origin, sink, on_blob).run(top, with_referrers)


class _Copy:
    def __init__(self, source: Source, target: Target, on_blob: OnBlob | None) -> None:
        self._source = source
        self._target = target
        self._on_blob = on_blob
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._bytes = 0
        self._done: set[Digest] = set()

    def run(self, top: Document, with_referrers: bool) -> Copied:
        unchanged = self._target.names(top.digest)
        if not unchanged:
            self._below(top, 0)
        referring = self._referring(top) if with_referrers else 0
        if not unchanged:
            self._target.put_document(top, top=True)
        counts = self._counts
        return Copied(top.digest, counts["sent"], self._bytes, counts["mounted"], counts["there"], unchanged, referring)

    def _referring(self, top: Document) -> int:
        """What refers to the document, to one that it names, or to one that refers to these."""
        subjects = [top.digest, *self._named(top, 0)]
        done = set(subjects)
        count = 0
        while subjects:
            subject = subjects.pop()
            for one in self._source.referring(subject):
                if one.document.digest in done:
                    continue
                done.add(one.document.digest)
                count += 1
                if count > LIMIT:
                    raise BadArchive(f"more than {LIMIT} documents refer to {top.digest}")
                self._below(one.document, 1)
                self._target.put_referring(one, subject)
                subjects.append(one.document.digest)
        return count

    def _named(self, document: Document, depth: int) -> Iterator[Digest]:
        if isinstance(document.value, Index) and depth <= _MAX_NESTING:
            for descriptor in document.value.manifests:
                yield descriptor.digest
                if descriptor.media_type in (OCI_INDEX, DOCKER_LIST):
                    yield from self._named(self._source.document(descriptor), depth + 1)

    def _below(self, document: Document, depth: int) -> None:
        """Everything that the document names."""
        if depth > _MAX_NESTING:
            raise BadArchive(f"indexes are nested more than {_MAX_NESTING} deep")
        if isinstance(document.value, Index):
            for descriptor in document.value.manifests:
                inner = self._source.document(descriptor)
                self._below(inner, depth + 1)
                self._target.put_document(inner, top=False)
            return
        wanted = {d.digest: d for d in (document.value.config, *document.value.layers) if not is_foreign(d)}
        self._blobs([d for d in wanted.values() if d.digest not in self._done])
        self._done |= set(wanted)

    def _blobs(self, descriptors: Sequence[Descriptor]) -> None:
        """Several at a time; the first failure stops those that have not begun."""

        def one(descriptor: Descriptor) -> None:
            outcome = self._target.put(descriptor, lambda: self._source.pieces(descriptor))
            with self._lock:
                self._counts[outcome] += 1
                self._bytes += descriptor.size if outcome == "sent" else 0
            if self._on_blob:
                self._on_blob(descriptor, outcome)

        each(one, descriptors, _PARALLEL)


def _source(
    store: LocalStore, client: RegistryClient, place: Place, platform: Platform, compression: Compression, stack: ExitStack
) -> Source:
    match place.kind:
        case "docker":
            return FromRegistry(client, Reference.parse(place.name).with_default_tag())
        case "oci" | "oci-archive":
            layout = Layout(stack.enter_context(opened(place.file, store.scratch())))
            return FromLayout(layout, _selected(layout, place))
        case _:
            return FromStore(store, leaving(store, _into_store(store, client, place, platform, stack), compression))


def _target(store: LocalStore, client: RegistryClient, place: Place, source: Place, stack: ExitStack) -> Target:
    if place.kind == "docker":
        reference = Reference.parse(place.name).with_default_tag()
        origin = Reference.parse(source.name) if source.kind == "docker" else None
        mount = (origin.repository,) if origin and origin.registry == reference.registry else ()
        return ToRegistry(client, reference, mount)
    if place.name.startswith("@"):
        raise BadPlace(f"{place}: an image is written under a tag, not under a digest")
    if place.kind == "oci":
        return ToLayout(LayoutFolder(place.file), place.name)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=store.scratch())))
    return ToArchive(folder, place)


def _into_store(store: LocalStore, client: RegistryClient, place: Place, platform: Platform, stack: ExitStack) -> Image:
    """The image in the store, without a name of its own; one that was not there before goes when `stack` ends unless it was named."""
    if place.kind == "store":
        return find_image(store, place.name)
    known = {image.id for image in store.images.all()}
    if place.kind == "docker":
        image = pull(store, client, Reference.parse(place.name), platform, names=())
    elif place.kind == "docker-archive":
        image = _loaded(store, place, platform)
    else:
        layout = Layout(stack.enter_context(opened(place.file, store.scratch())))
        image = record(store, layout.take(_selected(layout, place), platform, store.blobs), ())
    if image.id not in known:
        stack.callback(_forget, store, image.id)
    return image


def _forget(store: LocalStore, identifier: Digest) -> None:
    found = store.images.by_id(identifier)
    if found is not None and not found.names:
        store.images.remove(identifier)


def _loaded(store: LocalStore, place: Place, platform: Platform) -> Image:
    from lamina.engine.images.archive import load_archive

    images = load_archive(place.file, store.blobs, platform, store.scratch())
    wanted = str(Reference.parse(place.name).with_default_tag()) if place.name else ""
    for image in images:
        if not wanted and len(images) == 1:
            return record(store, image, ())
        if wanted in {_full(name) for name in image.names}:
            return record(store, image, ())
    there = ", ".join(name for image in images for name in image.names) or "images without names"
    asked = f"no image {place.name}" if place.name else f"{len(images)} images"
    raise ImageNotFound(f"{place.file} has {asked}", hint=f"it has: {there[:400]}; say docker-archive:{place.file}:NAME")


def _full(name: str) -> str:
    try:
        return str(Reference.parse(name).with_default_tag())
    except LaminaError:
        return name


def _deliver(store: LocalStore, image: Image, source: Place, target: Place) -> None:
    named = target.name or (source.name if source.kind in ("docker", "store", "docker-archive") else "")
    try:
        names = [str(Reference.parse(named).with_default_tag())] if named else []
    except LaminaError:
        if target.name:
            raise
        names = []  # the source was an id
    if target.kind == "store":
        if "@" in target.name:
            raise BadPlace(f"{target}: an image is kept under a tag, not under a digest")
        store.images.tag(image.id, names)
        return
    from lamina.engine.exporters.export import save
    from lamina.engine.exporters.place import replacing

    with replacing(target.file) as out:
        save(store, [(image, [name for name in names if "@" not in name])], out)


def _chosen(source: Source, top: Document, platform: Platform, label: str) -> Document:
    """Down to the manifest for `platform`. A single manifest is taken as it is."""
    for _ in range(_MAX_NESTING):
        if isinstance(top.value, Manifest):
            return top
        found = choose(top.value, platform)
        if found is None:
            there = ", ".join(offered(top.value)) or "none"
            raise ImageNotFound(f"{label} has no image for {platform}", hint=f"it has: {there[:400]}")
        top = source.document(found)
    raise BadArchive(f"{label}: indexes are nested more than {_MAX_NESTING} deep")


def _selected(layout: Layout, place: Place) -> Descriptor:
    if place.name.startswith("@"):
        return layout.select(digest=parse_digest(place.name[1:]))
    return layout.select(place.name)
