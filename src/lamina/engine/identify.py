"""Keys of vertices: which content ids an operation's inputs have. Pure vertices (bases, contexts, merges) get their result here."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING

import msgspec

from lamina.cache import keys
from lamina.cache.record import InputPart, KeyParts, Place
from lamina.engine.listed import Listed
from lamina.engine.results import Files, Filesystem, Result
from lamina.engine.selecting import exclusion
from lamina.graph.ops import ContextOp, ExecOp, FileOp, GitOp, HttpOp, ImageOp, MergeOp
from lamina.graph.vertex import Vertex
from lamina.layer.modes import ModeRule
from lamina.layer.selection import Selection, SourceNotFound, select
from lamina.oci.canonical import canonical
from lamina.oci.digest import StateId

if TYPE_CHECKING:
    from lamina.engine.job import Job
    from lamina.store.facts import Selection as KnownSelection


class Keyed(msgspec.Struct, frozen=True):
    """`listings` by index into parts.inputs."""

    parts: KeyParts
    listings: dict[int, Listed] = msgspec.field(default_factory=dict)


class Missing(msgspec.Struct, frozen=True):
    """The files of these inputs are needed to compute the key."""

    inputs: tuple[Vertex, ...]


def is_quick(node: Vertex) -> bool:
    """Whether identifying it reads no files and asks no network."""
    if node.freshness.watch:
        return False
    if isinstance(node.op, (HttpOp, GitOp, ExecOp)):
        return isinstance(node.op, ExecOp) and not any(mount.input is not None for mount in node.op.mounts)
    if isinstance(node.op, FileOp):
        return all(selection is None for selection in keys.selections(node.op))
    return True


def label_of(node: Vertex) -> str:
    """What a filesystem is called in a sentence: the stage that made it; a merge (COPY --link) is its copy's."""
    step = next((step for vertex in (node, *reversed(node.inputs)) if vertex is not None for step in vertex.steps), None)
    return f"stage {step.stage_name or step.stage}" if step is not None else node.name


def place_of(node: Vertex, dockerfile: str) -> Place:
    """A here-document's own vertex has no step; its name stands for one."""
    if not node.steps:
        return Place(dockerfile=dockerfile, stage="", position=0, line=0, text=keys.well_formed(node.name))
    step = node.steps[0]
    text = keys.well_formed(step.text)
    return Place(dockerfile=dockerfile, stage=step.stage_name or str(step.stage), position=step.index, line=step.line, text=text)


def pure_result(node: Vertex, inputs: tuple[Result | None, ...], job: Job) -> Result | None:
    """The result of a vertex that is not run and not recorded; None for the others."""
    op = node.op
    match op:
        case ImageOp():
            return job.around.bases.filesystem(op)
        case ContextOp():
            return job.around.contexts.files(op.name)
        case HttpOp() | GitOp():
            return job.around.sources.result(op)
        case MergeOp():
            below, *above = inputs
            filesystems = [i for i in (below, *above) if isinstance(i, Filesystem)]
            return Filesystem(
                keys.merge_state([f.state for f in filesystems]),
                keys.merge_state([StateId(f.identity) for f in filesystems]),
                tuple(layer for f in filesystems for layer in f.layers),
                None,
                tainted=any(f.tainted for f in filesystems),
                label=label_of(node),
            )
    return None


def key_parts(node: Vertex, inputs: tuple[Result | None, ...], job: Job) -> Keyed | Missing:
    root = inputs[0] if inputs else None
    assert root is None or isinstance(root, Filesystem)
    root_part = None if root is None else InputPart("filesystem", root.identity, root.label)
    selected: list[InputPart | None] = []
    listings: dict[int, Listed] = {}
    missing: list[Vertex] = []
    for wanted in keys.selections(node.op):
        if wanted is None:
            selected.append(None)
            continue
        source, vertex = inputs[wanted.input], node.inputs[wanted.input]
        if source is None or vertex is None:
            if wanted.path in ("", "/"):  # all of an empty stage is nothing
                selected.append(InputPart("files", "empty", "an empty stage"))
                continue
            raise SourceNotFound(f"{wanted.path!r} cannot be copied: the stage is empty")
        if isinstance(source, Filesystem):
            part, listing = _from_filesystem(source, wanted, job)
            if part is None:
                missing.append(vertex)
        elif source.id is not None and source.kind in ("url", "git"):
            part, listing = InputPart(source.kind, _whole_source(source.id, wanted), source.label), None
        else:
            part, listing = _from_files(source, wanted, job)
        selected.append(part)
        if part is not None and listing is not None:
            listings[id(part)] = listing
    if missing:
        return Missing(tuple(missing))
    watched = [InputPart("watch", job.around.sources.watch(url, job.warn), url) for url in node.freshness.watch]
    parts = keys.key_parts(node.op, root_part, selected, watched)
    return Keyed(parts, {n: listings[id(part)] for n, part in enumerate(parts.inputs) if id(part) in listings})


def _whole_source(identifier: str, wanted: keys.Selection) -> str:
    """A URL or checkout is taken as a whole; what is left out of it is said by the operation."""
    return identifier if wanted.whole or wanted.path.count("/") <= 1 else f"{identifier}:{wanted.path}"


def _know(job: Job, source: Filesystem, selector: str, merkle: str) -> KnownSelection:
    from lamina.store.facts import Selection as Known

    known = Known(merkle, None)
    job.around.store.facts.set_selection(source.state, selector, known)
    return known


def _from_filesystem(source: Filesystem, wanted: keys.Selection, job: Job) -> tuple[InputPart | None, Listed | None]:
    """From the table of known selections of this state; else by looking at the files, which must be here."""
    if wanted.whole:
        return InputPart("files", source.state, source.label), None
    selector = hashlib.sha256(canonical(_plain(wanted))).hexdigest()
    known = job.around.store.facts.selection(source.state, selector)
    sharing = job.around.sharing
    if known is None and sharing is not None and sharing.reads and not job.around.layers.all_present(source.layers):
        merkle = sharing.selection(source.state, selector)
        if merkle is not None:
            known = _know(job, source, selector, merkle)
    if known is not None:
        if sharing is not None and sharing.writes:
            sharing.note_selection(source.state, selector, known.merkle)
        return InputPart("files", known.merkle, source.label, known.listing), _lazily(source, wanted, job)
    if not job.around.layers.all_present(source.layers):
        return None, None
    view = job.around.layers.view(source.layers)
    selection = _selection(view, wanted)
    merkle = selection.digest()
    _know(job, source, selector, merkle)
    if sharing is not None and sharing.writes:
        sharing.note_selection(source.state, selector, merkle)
    return InputPart("files", merkle, source.label), Listed(
        lambda: selection, job.around.listing, nullcontext(), wanted.path, relative=False
    )


def _lazily(source: Filesystem, wanted: keys.Selection, job: Job) -> Listed:
    def choose() -> Selection:
        return _selection(job.around.layers.view(source.layers), wanted)

    return Listed(choose, job.around.listing, nullcontext(), wanted.path, relative=False)


def _from_files(source: Files, wanted: keys.Selection, job: Job) -> tuple[InputPart, Listed]:
    assert source.tree is not None
    with job.around.contexts.lock:
        selection = _selection(source.tree, wanted)
        merkle = selection.digest()
    listed = Listed(lambda: selection, job.around.listing, job.around.contexts.lock, wanted.path, relative=True)
    return InputPart("files", merkle, source.label), listed


def _selection(tree: object, wanted: keys.Selection) -> Selection:
    return select(
        tree,  # type: ignore[arg-type]  # FileTree; the callers have checked
        wanted.path,
        wildcard=wanted.wildcard,
        include=[pattern for pattern in wanted.include if pattern],
        excluded=exclusion(wanted.exclude),
        follow_symlink=wanted.follow_symlink,
        required=wanted.required,
        mode=ModeRule("0") if wanted.chmod else None,
        owned=wanted.chown,
    )


def _plain(wanted: keys.Selection) -> dict[str, object]:
    return {name: getattr(wanted, name) for name in wanted.__struct_fields__ if name != "input"}
