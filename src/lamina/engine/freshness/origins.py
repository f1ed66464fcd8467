"""What an image was built from: bases, URLs, repositories, stages and steps, and the request that a rebuild repeats. Kept by the store for
each name of an image (store/origins.py). The document holds no time of its own, so that a build which found everything writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.recipe import Recipe, plain_url, recipe_of
from lamina.engine.freshness.remotes import name_of
from lamina.graph.ops import ContextOp, GitOp, HttpOp, ImageOp
from lamina.graph.vertex import Vertex, walk
from lamina.oci import typed
from lamina.oci.canonical import canonical
from lamina.oci.config import ImageConfig
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference
from lamina.oci.unreadable import UNREADABLE
from lamina.store.local import LocalStore
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.dockerfile.lower import Lowered, LoweredStep
    from lamina.engine.request import BuildRequest, StepReport
    from lamina.engine.surroundings import Surroundings

SCHEMA = 1


class BaseUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """`reference` is normalised; `top` is what it named in its registry then (an index or a manifest), None for an image made here or
    read from a layout. Equal `content` (`content_of`) means that nothing which stands on it would differ."""

    reference: str
    platform: str
    image: Digest  # of the config
    manifest: Digest
    content: str
    top: Digest | None = None


class UrlUse(msgspec.Struct, frozen=True):
    url: str  # without a password; a query stands as its hash
    digest: str


class GitUse(msgspec.Struct, frozen=True):
    url: str
    ref: str
    commit: str


class WatchUse(msgspec.Struct, frozen=True):
    """`# lamina: watch=`. `answer`: its ETag, date or digest then."""

    url: str
    answer: str


class StageUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """`base`: a reference, or with `on_stage` the name of a stage; None for scratch. `copies`: stages and references that files come from;
    `remotes`: URLs and `URL#REF` of repositories that it adds or watches; `contexts`: names of build contexts that files come from."""

    name: str
    base: str | None = None
    on_stage: bool = False
    copies: tuple[str, ...] = ()
    remotes: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


class StepUse(msgspec.Struct, frozen=True):
    stage: str
    text: str
    key: str


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    platform: str
    dockerfile: str
    recipe: Recipe
    bases: tuple[BaseUse, ...] = ()
    urls: tuple[UrlUse, ...] = ()
    gits: tuple[GitUse, ...] = ()
    stages: tuple[StageUse, ...] = ()
    steps: tuple[StepUse, ...] = ()
    watches: tuple[WatchUse, ...] = ()
    schema: int = SCHEMA


def content_of(config: ImageConfig) -> str:
    """Hash of all that a build takes from a base: its layers and settings, no history and no time."""
    settings = msgspec.to_builtins(config.config)
    parts = [list(config.diff_ids), settings, config.os, config.architecture, config.variant, config.os_version]
    return hashlib.sha256(canonical(parts)).hexdigest()


def remember(
    store: LocalStore,
    image: Image,
    names: Sequence[str],
    request: BuildRequest,
    around: Surroundings,
    lowered: Lowered,
    steps: Sequence[StepReport],
) -> Origin:
    """Keep what this build of `image` used, for each of its names."""
    found = Origin(
        platform=image.platform,
        dockerfile=request.dockerfile_name,
        recipe=recipe_of(request),
        bases=bases_of(store, around),
        urls=urls_of(around),
        gits=gits_of(around),
        watches=watches_of(around),
        stages=stages_of(lowered),
        steps=tuple(StepUse(step.stage_name or str(step.stage), step.text, step.key) for step in steps if step.key),
    )
    store.origins.put(image.id, names, typed.encode_json(found))
    return found


def read(doc: bytes | None) -> Origin | None:
    """None for what is not there or was written by another version."""
    if doc is None:
        return None
    try:
        found = typed.json(doc, type=Origin)
    except UNREADABLE:
        return None
    return found if found.schema == SCHEMA else None


def urls_of(around: Surroundings) -> tuple[UrlUse, ...]:
    """Downloads without a --checksum of their own."""
    found = {UrlUse(plain_url(op.url), id) for op, id in around.sources.used().items() if not isinstance(op, GitOp) and op.checksum is None}
    return tuple(sorted(found, key=lambda use: use.url))


def gits_of(around: Surroundings) -> tuple[GitUse, ...]:
    found = {GitUse(plain_url(op.url), op.ref, id) for op, id in around.sources.used().items() if isinstance(op, GitOp)}
    return tuple(sorted(found, key=lambda use: (use.url, use.ref)))


def watches_of(around: Surroundings) -> tuple[WatchUse, ...]:
    return tuple(WatchUse(plain_url(url), answer) for url, answer in sorted(around.sources.watched().items()))


def bases_of(store: LocalStore, around: Surroundings) -> tuple[BaseUse, ...]:
    uses = []
    for (text, platform), (image, config) in around.bases.used.items():
        remote = store.facts.remote(text, str(platform))
        # A name that was pulled once and then given to an image built here names that one.
        top = around.bases.locked.get(text)
        if top is None and remote is not None and (remote.manifest == image.manifest or store.origins.of(image.id) is None):
            top = remote.manifest
        if top is None and "@" in text:
            top = Digest(text.rpartition("@")[2])
        uses.append(BaseUse(text, str(platform), image.id, image.manifest, content_of(config), top))
    return tuple(sorted(uses, key=lambda use: (use.reference, use.platform)))


def stages_of(lowered: Lowered) -> tuple[StageUse, ...]:
    """The stages that the target needs, in the order of the file, with what each stands on and takes files from."""
    names: dict[int, str] = {}
    own: dict[int, list[LoweredStep]] = {}
    for row in lowered.steps:
        if row.needed and row.step.stage >= 0:
            names[row.step.stage] = row.step.stage_name or str(row.step.stage)
            own.setdefault(row.step.stage, []).append(row)
    of_vertex: dict[int, int] = {}
    images: set[str] = set()
    for vertex in walk((lowered.target,)):
        if vertex.steps:
            of_vertex[id(vertex)] = vertex.steps[0].stage
        elif isinstance(vertex.op, ImageOp):
            images.add(vertex.op.reference)
    found = []
    for stage, name in names.items():
        vertices = [row.vertex for row in own[stage] if row.vertex is not None]
        base, on_stage, certain = _written(own[stage], names.values(), images)
        if not certain:
            lowest = lowered.target if not vertices and stage == max(names) else next((v.inputs[0] for v in vertices if v.inputs), None)
            base, on_stage = _source(lowest, names, of_vertex, stage)
        copies = (_source(below, names, of_vertex, stage)[0] for vertex in vertices for below in vertex.inputs[1:])
        below = [source for vertex in vertices for source in _taken(vertex, of_vertex)]
        remotes = {plain_url(url) for vertex in vertices for url in vertex.freshness.watch}
        remotes |= {plain_url(op.url) for op in below if isinstance(op, HttpOp)}
        remotes |= {name_of(plain_url(op.url), op.ref) for op in below if isinstance(op, GitOp)}
        contexts = {op.name for op in below if isinstance(op, ContextOp)}
        sources = tuple(dict.fromkeys(source for source in copies if source is not None))
        found.append(StageUse(name, base, on_stage, sources, tuple(sorted(remotes)), tuple(sorted(contexts))))
    return tuple(found)


def _taken(vertex: Vertex, of_vertex: Mapping[int, int]) -> Iterator[HttpOp | GitOp | ContextOp]:
    """Where a step's files come from, other steps left out."""
    todo = list(vertex.inputs)
    while todo:
        below = todo.pop()
        if below is None:
            continue
        if isinstance(below.op, (HttpOp, GitOp, ContextOp)):
            yield below.op
        elif id(below) not in of_vertex:
            todo += below.inputs


def _written(rows: Sequence[LoweredStep], names: Iterable[str], images: Collection[str]) -> tuple[str | None, bool, bool]:
    """(base, whether it is a stage, whether that is certain) as FROM says it: not so for a variable or a named context."""
    words = next((row.step.text.split() for row in rows if row.kind == "FROM"), [])
    word = next((word for word in words[1:] if not word.startswith("--")), "")
    if word in names:
        return word, True, True
    if word == "scratch":
        return None, False, True
    try:
        reference = str(Reference.parse(word).with_default_tag()).partition("@")[0]
    except LaminaError:
        return None, False, False
    return reference, False, reference in images


def _source(vertex: Vertex | None, names: Mapping[int, str], of_vertex: Mapping[int, int], stage: int) -> tuple[str | None, bool]:
    """(reference or name of a stage, whether it is a stage); merges and here-documents are looked through. (None, False) for contexts and scratch."""
    while vertex is not None:
        if isinstance(vertex.op, ImageOp):
            return vertex.op.reference, False
        where = of_vertex.get(id(vertex))
        if where is not None:
            return (None, False) if where == stage else (names.get(where), True)
        vertex = vertex.inputs[0] if vertex.inputs else None
    return None, False
