from __future__ import annotations

from lamina.graph.ops import ContextOp, CopyAction, FileOp, ImageOp, MergeOp, Owner
from lamina.graph.show import as_dot, as_text
from lamina.graph.vertex import Freshness, Vertex, walk
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform

DIGEST = Digest("sha256:" + "1" * 64)
BASE = Vertex(ImageOp("docker.io/library/debian:12", DIGEST, Platform("linux", "amd64")), name='FROM "debian"')
CONTEXT = Vertex(ContextOp("context"), name="context")
COPY = Vertex(
    FileOp((CopyAction(1, "/a", "/b/", owner=Owner("0")),)), (None, CONTEXT), Freshness(max_age=60, watch=("http://x/",)), name="COPY a b/"
)
MERGE = Vertex(MergeOp(), (BASE, COPY))


def test_text() -> None:
    assert as_text((MERGE,)) == (
        f"0 ImageOp() reference='docker.io/library/debian:12' digest='{DIGEST}' platform=linux/amd64\n"
        "1 ContextOp() name='context'\n"
        "2 FileOp(-, 1) actions=[CopyAction(input=1 source='/a' dest='/b/' owner=Owner(user='0'))] max-age=60s watch=http://x/\n"
        "3 MergeOp(0, 2)\n"
    )


def test_dot() -> None:
    assert as_dot((MERGE,)) == (
        'digraph {\n  rankdir=LR; node [shape=box];\n  0 [label="FROM \\"debian\\""];\n  1 [label="context"];\n'
        '  2 [label="COPY a b/"];\n  1 -> 2;\n  3 [label="MergeOp"];\n  0 -> 3 [style=bold];\n  2 -> 3;\n}\n'
    )


def test_nothing() -> None:
    assert as_text((None,)) == ""


def test_walk_meets_each_vertex_once_after_its_inputs_however_deep() -> None:
    vertex = BASE
    for _ in range(5000):
        vertex = Vertex(MergeOp(), (vertex, vertex))
    order = list(walk((vertex, BASE)))
    assert len(order) == 5001
    assert order[0] is BASE
    assert order[-1] is vertex
