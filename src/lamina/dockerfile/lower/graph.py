"""Vertices are made here, each once: equal operation, inputs and freshness are one vertex, whose steps add up."""

from __future__ import annotations

import msgspec

from lamina.graph.ops import Op
from lamina.graph.vertex import Freshness, Step, Vertex


class Graph:
    """Hash-consing. A vertex is final when lowering has ended; until then equal instructions still add their step to it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Op, tuple[int, ...], Freshness], Vertex] = {}

    def add(
        self,
        op: Op,
        inputs: tuple[Vertex | None, ...] = (),
        freshness: Freshness = Freshness(),
        step: Step | None = None,
        name: str = "",
    ) -> Vertex:
        key = (op, tuple(id(v) for v in inputs), freshness)
        vertex = self._known.get(key)
        if vertex is None:
            vertex = Vertex(op, inputs, freshness, (step,) if step else (), name)
            self._known[key] = vertex
        elif step is not None and step not in vertex.steps:
            msgspec.structs.force_setattr(vertex, "steps", (*vertex.steps, step))
        return vertex
