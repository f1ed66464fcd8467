"""YAML as a tree that knows where each piece stands. Aliases are shared nodes; merge keys are already merged."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.span import Span

Plain = str | int | float | bool | None


class YamlError(LaminaError):
    """The text is not YAML that a pipelines file may use. The span is the offending character or key."""

    code = "pipeline/yaml"
    default_exit = 2


class Scalar(msgspec.Struct, frozen=True):
    """`text` is what is written (without quotes), `value` what YAML 1.1 makes of it, as Bitbucket's loader does."""

    text: str
    value: Plain
    span: Span


class Sequence(msgspec.Struct, frozen=True):
    items: tuple[Node, ...]
    span: Span


class Entry(msgspec.Struct, frozen=True):
    """One key of a mapping; `merged` when it came through `<<`."""

    key: str
    span: Span
    value: Node
    merged: bool = False


class Mapping(msgspec.Struct, frozen=True):
    """Keys are unique; those of the mapping itself come first, in the order of the text."""

    entries: tuple[Entry, ...]
    span: Span

    def entry(self, key: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    def get(self, key: str) -> Node | None:
        found = self.entry(key)
        return None if found is None else found.value

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


Node = Scalar | Sequence | Mapping


class Anchor(msgspec.Struct, frozen=True):
    """`&name`, and whether an alias uses it."""

    name: str
    span: Span
    used: bool


class Tree(msgspec.Struct, frozen=True):
    root: Node
    anchors: tuple[Anchor, ...] = ()


def kind(node: Node) -> str:
    """What a user would call the node, for messages: `a list`, `the number 5` …"""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return "empty"
    if isinstance(node.value, bool):
        return f"the YAML boolean {node.text}"
    if isinstance(node.value, (int, float)):
        return f"the number {node.text}"
    return f'the text "{node.text}"'
