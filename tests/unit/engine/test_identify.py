"""Which content ids an operation's inputs have. Rules of keys are tested in cache/test_keys.py; here where their parts come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lamina.cache.record import LayerRef
from lamina.engine.identify import Keyed, Missing, is_quick, key_parts, label_of, place_of, pure_result
from lamina.engine.job import Job
from lamina.engine.results import Files, Filesystem, Result
from lamina.graph.ops import ContextOp, CopyAction, ExecMount, ExecOp, FileOp, GitOp, HttpOp, MergeOp, MkdirAction, Op
from lamina.graph.vertex import Freshness, Step, Vertex
from lamina.layer.context import ContextTree
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.selection import SourceNotFound
from lamina.oci.digest import LayerId, StateId
from lamina.oci.platform import Platform
from lamina.store.local import LocalStore
from lamina.testing.trees import MemoryTree

FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
STEP = Step(1, "build", 2, 3, 7, "RUN make")


def run(*mounts: ExecMount) -> ExecOp:
    return ExecOp(args=("make",), env=(), cwd="/", user="", platform=Platform("linux", "amd64"), mounts=mounts)


def copy(source: str) -> FileOp:
    return FileOp((CopyAction(1, source, "/to", wildcard=False),))


def vertex(op: Op, *inputs: Vertex | None, steps: tuple[Step, ...] = (STEP,), freshness: Freshness = Freshness()) -> Vertex:
    return Vertex(op, inputs, freshness, steps, "a name")


def fs(state: str, *layers: str) -> Filesystem:
    return Filesystem(StateId(state), f"id-{state}", tuple(LayerRef(LayerId(layer)) for layer in layers), label=f"stage {state}")


class Around:
    """The part of a job's surroundings that is asked."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store
        self.here = True
        self.sharing = None
        self.tree = MemoryTree().file("a", b"one").file("b", b"two")
        self.layers = SimpleNamespace(all_present=lambda layers: self.here, view=lambda layers: self.tree)
        self.sources = SimpleNamespace(watch=lambda url, warn: f"answer of {url}")
        self.contexts = SimpleNamespace(lock=store.lease.careful())

    def listing(self, selection: object) -> bytes:
        return b"listing"


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Around]:
    with LocalStore.open(tmp_path / "s", FLAVOUR, now=lambda: 1000.0) as store:
        yield Around(store)


def parts(node: Vertex, inputs: tuple[Result | None, ...], around: Around) -> Keyed | Missing:
    job = SimpleNamespace(around=around, warn=lambda text, code="": None, request=SimpleNamespace(exact_modes=False))
    return key_parts(node, inputs, cast("Job", job))


def ids(found: Keyed | Missing) -> list[tuple[str, str]]:
    assert isinstance(found, Keyed)
    return [(part.kind, part.id) for part in found.parts.inputs]


CONTEXT = vertex(ContextOp("context"), steps=())


def test_a_run_is_keyed_by_what_dependants_see_of_its_root(around: Around) -> None:
    assert ids(parts(vertex(run(), CONTEXT), (fs("root"),), around)) == [("filesystem", "id-root")]
    assert ids(parts(vertex(run(), None), (None,), around)) == [("filesystem", "scratch")]


def test_watched_urls_are_inputs(around: Around) -> None:
    found = parts(vertex(run(), CONTEXT, freshness=Freshness(watch=("http://h/x",))), (fs("root"),), around)
    assert ids(found)[1:] == [("watch", "answer of http://h/x")]


def test_a_selection_of_a_stage_is_looked_at_once(around: Around) -> None:
    node = vertex(copy("/a"), None, CONTEXT)
    first = ids(parts(node, (None, fs("deps", "l")), around))
    around.here = False
    assert ids(parts(node, (None, fs("deps", "other-layers")), around)) == first, "the state's table knows it; no layer need be here"
    assert isinstance(parts(vertex(copy("/b"), None, CONTEXT), (None, fs("deps", "l")), around), Missing)


def test_the_files_decide_not_the_stage(around: Around) -> None:
    node = vertex(copy("/a"), None, CONTEXT)
    assert ids(parts(node, (None, fs("one", "l")), around)) == ids(parts(node, (None, fs("two", "l")), around))
    around.tree = MemoryTree().file("a", b"changed").file("b", b"two")
    assert ids(parts(node, (None, fs("three", "l")), around)) != ids(parts(node, (None, fs("one", "l")), around))


def test_a_url_and_a_checkout_are_their_own_ids(around: Around) -> None:
    for kind, identifier in (("url", "sha256:x"), ("git", "commit::True")):
        source = Files(None, kind, "label", identifier)
        assert ids(parts(vertex(copy("/f"), None, CONTEXT), (None, source), around))[1:] == [(kind, identifier)]


def test_an_empty_stage_has_nothing_to_copy(around: Around) -> None:
    with pytest.raises(SourceNotFound, match="the stage is empty"):
        parts(vertex(copy("/f"), None, None), (None, None), around)


def test_quick_is_what_reads_no_files_and_asks_nobody() -> None:
    assert is_quick(vertex(run()))
    assert is_quick(vertex(FileOp((MkdirAction("/d"),))))
    assert is_quick(vertex(MergeOp()))
    for slow in (run(ExecMount("bind", "/x", 1)), HttpOp("u", "f"), GitOp("u"), copy("/a")):
        assert not is_quick(vertex(slow))
    assert not is_quick(vertex(run(), freshness=Freshness(watch=("http://h",))))


def test_place_and_label() -> None:
    place = place_of(vertex(run()), "Dockerfile")
    assert (place.dockerfile, place.stage, place.position, place.line, place.text) == ("Dockerfile", "build", 2, 7, "RUN make")
    assert place_of(vertex(run(), steps=()), "D").text == "a name"
    assert place_of(vertex(run(), steps=(Step(3, "", 1, 1, 1, "RUN \udcff"),)), "D").stage == "3"
    place_of(vertex(run(), steps=(Step(3, "", 1, 1, 1, "RUN \udcff"),)), "D").text.encode()
    assert label_of(vertex(run())) == "stage build"
    assert label_of(vertex(MergeOp(), CONTEXT, vertex(copy("/a")), steps=())) == "stage build", "COPY --link is its copy's"
    assert label_of(vertex(run(), steps=())) == "a name"


def test_a_merge_has_all_layers_and_both_states(around: Around) -> None:
    node = vertex(MergeOp(), CONTEXT, CONTEXT)
    job = cast("Job", SimpleNamespace(around=around))
    one = pure_result(node, (fs("below", "a", "b"), fs("above", "c")), job)
    assert isinstance(one, Filesystem)
    assert [layer.id for layer in one.layers] == ["a", "b", "c"]
    other = pure_result(node, (fs("below", "a", "b"), fs("changed", "d")), job)
    assert isinstance(other, Filesystem)
    assert other.state != one.state
    assert pure_result(vertex(run()), (None,), job) is None


def test_contexts_by_their_files(around: Around, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    context = Files(ContextTree(folder), "context", "build context")
    node = vertex(copy("/a"), None, CONTEXT)
    import threading

    around.contexts = SimpleNamespace(lock=threading.RLock())
    found = parts(node, (None, context), around)
    assert isinstance(found, Keyed)
    assert list(found.listings) == [1], "a miss can name what differs in the files"
    before = ids(found)
    (folder / "b").write_bytes(b"not copied")
    assert ids(parts(node, (None, Files(ContextTree(folder), "context", "build context")), around)) == before
