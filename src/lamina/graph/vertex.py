"""A vertex is an operation with inputs; the graph is the set of vertices that a target reaches. Equal vertices are one vertex."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lamina.diagnostics.span import Span
from lamina.graph.ops import Op


class Step(msgspec.Struct, frozen=True):
    """What a vertex is to the user: an instruction of a stage. Outside of the key."""

    stage: int  # -1 for sources that belong to no stage
    stage_name: str
    index: int  # n of "[stage n/m]"
    total: int
    line: int  # first line of the instruction; an ONBUILD trigger has its FROM's
    text: str  # the instruction's own text, joined to one line, variables as written
    trigger: bool = False
    span: Span | None = None


class Freshness(msgspec.Struct, frozen=True):
    """What the user asked of this step beyond its content (flags and `# lamina:` comments)."""

    forced: bool = False  # --no-cache, --no-cache-filter, --refresh
    max_age: float | None = None  # seconds
    watch: tuple[str, ...] = ()  # URLs whose ETag or digest enters the key


class Vertex(msgspec.Struct, frozen=True, eq=False):
    """Identity (`is`, and `fingerprint` between runs) follows from op, inputs and freshness; `steps` are outside of it."""

    op: Op
    inputs: tuple[Vertex | None, ...] = ()
    freshness: Freshness = Freshness()
    steps: tuple[Step, ...] = ()  # several when equal instructions met in one vertex
    name: str = ""  # "[build 3/7] RUN make", for progress


def walk(targets: tuple[Vertex | None, ...]) -> Iterator[Vertex]:
    """Each reachable vertex once, inputs before what depends on them. No recursion: graphs may be thousands deep."""
    seen: set[int] = set()
    stack: list[tuple[Vertex, bool]] = [(v, False) for v in reversed(targets) if v is not None]
    while stack:
        vertex, ready = stack.pop()
        if ready:
            yield vertex
        elif id(vertex) not in seen:
            seen.add(id(vertex))
            stack.append((vertex, True))
            stack.extend((v, False) for v in reversed(vertex.inputs) if v is not None and id(v) not in seen)
