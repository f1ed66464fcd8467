"""A graph as text (golden tests, debugging) and as dot. Both are stable: equal graphs give equal text."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lamina.graph.vertex import Vertex, walk


def as_text(targets: Iterable[Vertex | None]) -> str:
    """One line per vertex, inputs first: `3 FileOp(0, 2) actions=…`; fields at their default are left out, "-" is the empty filesystem."""
    return "".join(f"{number} {_label(vertex, numbers)}\n" for number, vertex, numbers in _numbered(targets))


def as_dot(targets: Iterable[Vertex | None]) -> str:
    """The graph for Graphviz; an edge goes from an input to what depends on it."""
    lines = ["digraph {", "  rankdir=LR; node [shape=box];"]
    for number, vertex, numbers in _numbered(targets):
        lines.append(f"  {number} [label={_quoted(vertex.name or type(vertex.op).__name__)}];")
        lines.extend(
            f"  {numbers[id(source)]} -> {number}{' [style=bold]' if position == 0 else ''};"
            for position, source in enumerate(vertex.inputs)
            if source is not None
        )
    return "\n".join([*lines, "}", ""])


def _numbered(targets: Iterable[Vertex | None]) -> Iterable[tuple[int, Vertex, dict[int, int]]]:
    numbers: dict[int, int] = {}
    for number, vertex in enumerate(walk(tuple(targets))):
        numbers[id(vertex)] = number
        yield number, vertex, numbers


def _label(vertex: Vertex, numbers: dict[int, int]) -> str:
    inputs = ", ".join("-" if source is None else str(numbers[id(source)]) for source in vertex.inputs)
    told = _fields(vertex.op)
    if vertex.freshness.max_age is not None:
        told.append(f"max-age={vertex.freshness.max_age:g}s")
    told.extend(f"watch={url}" for url in vertex.freshness.watch)
    if vertex.freshness.forced:
        told.append("forced")
    return " ".join([f"{type(vertex.op).__name__}({inputs})", *told])


def _fields(value: msgspec.Struct) -> list[str]:
    return [
        f"{field.name}={_plain(getattr(value, field.name))}"
        for field in msgspec.structs.fields(value)
        if field.required or getattr(value, field.name) != field.default
    ]


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    if isinstance(value, msgspec.Struct):
        if type(value).__str__ is not object.__str__:
            return str(value)
        return f"{type(value).__name__}({' '.join(_fields(value))})"
    return repr(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
