"""Keys of all steps of a Dockerfile over a file tree, with nothing run: for replay, and for tests of what a change costs.

Where a record is known its state goes on, so that early cut-off counts as far as this store has seen it; else a result is what its key says.
What was never fetched is taken to be always the same: base images that are not here, URLs, repositories.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from lamina.cache import keys
from lamina.cache.record import CacheKey, InputPart
from lamina.dockerfile.instructions import Document
from lamina.dockerfile.lower import Lowered, Needs, Options, ResolvedBase, lower
from lamina.engine.replay_git import GitTree
from lamina.engine.selecting import exclusion
from lamina.graph.ops import ContextOp, GitOp, HttpOp, ImageOp, MergeOp
from lamina.graph.vertex import Step, Vertex, walk
from lamina.layer.entry import Kind
from lamina.layer.modes import ModeRule
from lamina.layer.selection import select
from lamina.layer.tree import FileTree
from lamina.oci.canonical import canonical
from lamina.oci.config import ImageConfig
from lamina.oci.digest import StateId, sha256
from lamina.oci.platform import Platform

Known = Callable[[CacheKey], StateId | None]
"""The state of a record under a key, where there is one."""


class Keyed(msgspec.Struct, frozen=True):
    """One step. `own` is its key without the filesystem that it stands on, `below` that filesystem; equal `own` on equal `below` is a hit."""

    step: Step
    vertex: Vertex
    key: CacheKey
    own: str
    below: str
    kind: str  # the instruction's keyword
    linked: bool = False  # COPY --link: it stands on nothing
    tree: FileTree | None = None  # of the build context, where it takes files from it


class Base(msgspec.Struct, frozen=True):
    resolved: ResolvedBase
    state: StateId


def unknown_base(reference: str, platform: Platform) -> Base:
    """For an image that is not here: an empty config, and a state of its own."""
    config = ImageConfig(architecture=platform.architecture, os=platform.os)
    name = f"unknown base {reference} {platform}"
    return Base(ResolvedBase(reference, sha256(name.encode()), config), StateId("state:" + hashlib.sha256(name.encode()).hexdigest()))


def lowered(document: Document, options: Options, base_of: Callable[[str, Platform], Base]) -> tuple[Lowered, Mapping[str, StateId]]:
    """The graph, and the states of its base images by digest. Raises LaminaError for a file that cannot be built."""
    bases: dict[tuple[str, Platform], ResolvedBase] = {}
    states: dict[str, StateId] = {}
    while True:
        found = lower(document, options, bases)
        if isinstance(found, Lowered):
            return found, states
        assert isinstance(found, Needs)
        for key in found.references:
            base = base_of(*key)
            bases[key] = base.resolved
            states[base.resolved.digest] = base.state


def keys_of(
    graph: Lowered, states: Mapping[str, StateId], tree_of: Callable[[str], FileTree], known: Known = lambda key: None
) -> list[Keyed]:
    """Every step that the target needs and that makes a layer, in the order of the file. SourceNotFound for a COPY of what is not there."""
    identity: dict[int, StateId] = {}
    found: dict[int, tuple[CacheKey, str, str]] = {}
    for vertex in walk((graph.target,)):
        op = vertex.op
        below = identity[id(vertex.inputs[0])] if vertex.inputs and vertex.inputs[0] is not None else StateId("")
        if isinstance(op, ImageOp):
            identity[id(vertex)] = states[op.digest]
        elif isinstance(op, ContextOp):
            identity[id(vertex)] = StateId("context " + op.name)
        elif isinstance(op, HttpOp | GitOp):
            identity[id(vertex)] = StateId(f"source {op.url} {op.ref if isinstance(op, GitOp) else ''}")
        elif isinstance(op, MergeOp):
            identity[id(vertex)] = keys.merge_state([identity[id(v)] for v in vertex.inputs if v is not None])
        else:
            selected = [None if wanted is None else _content(vertex, wanted, identity, tree_of) for wanted in keys.selections(op)]
            root = InputPart("filesystem", below) if below else None
            parts = keys.key_parts(op, root, selected)
            key = keys.key_of(parts)
            identity[id(vertex)] = known(key) or keys.definition_state(key)
            own = hashlib.sha256(canonical([parts.op, [part.id for part in parts.inputs[1:]]])).hexdigest()
            found[id(vertex)] = (key, own, below)
    rows = []
    for row in graph.steps:
        vertex_ = row.vertex
        if row.needed and vertex_ is not None:
            rows += [
                Keyed(row.step, made, *found[id(made)], row.kind, made is not vertex_, _tree(made, tree_of))
                for made in _made(vertex_)
                if id(made) in found
            ]
    return rows


def _tree(vertex: Vertex, tree_of: Callable[[str], FileTree]) -> FileTree | None:
    return next((tree_of(v.op.name) for v in vertex.inputs if v is not None and isinstance(v.op, ContextOp)), None)


def _made(vertex: Vertex) -> list[Vertex]:
    """The vertex that does an instruction's work: of COPY --link the copy below the merge."""
    if isinstance(vertex.op, MergeOp):
        return [v for v in vertex.inputs[1:] if v is not None]
    return [vertex]


def _content(vertex: Vertex, wanted: keys.Selection, identity: Mapping[int, StateId], tree_of: Callable[[str], FileTree]) -> InputPart:
    source = vertex.inputs[wanted.input]
    if source is None:
        return InputPart("files", "empty")
    if not isinstance(source.op, ContextOp):
        state = identity[id(source)]
        if wanted.whole:
            return InputPart("files", state)
        text = canonical({name: getattr(wanted, name) for name in wanted.__struct_fields__ if name != "input"})
        return InputPart("files", hashlib.sha256(state.encode() + b"\n" + text).hexdigest())
    tree = tree_of(source.op.name)
    if isinstance(tree, GitTree) and not (wanted.include or wanted.exclude or wanted.chmod or wanted.chown):
        where = tree.resolve(wanted.path.encode("utf-8", "surrogateescape"))
        entry = tree.entry(where) if where is not None else None
        if where is not None and entry is not None and entry.kind is Kind.DIRECTORY:
            return InputPart("files", tree.digest(where).hex())
    selection = select(
        tree,
        wanted.path,
        wildcard=wanted.wildcard,
        include=[pattern for pattern in wanted.include if pattern],
        excluded=exclusion(wanted.exclude),
        follow_symlink=wanted.follow_symlink,
        required=wanted.required,
        mode=ModeRule("0") if wanted.chmod else None,
        owned=wanted.chown,
    )
    return InputPart("files", selection.digest())
