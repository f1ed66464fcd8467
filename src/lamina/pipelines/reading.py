"""Takes values out of a tree and keeps what was wrong with them; never stops at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

from lamina.diagnostics.diagnostic import Diagnostic, Severity
from lamina.diagnostics.errors import nearest
from lamina.diagnostics.span import Span
from lamina.pipelines.model import Assignment, Places, Text
from lamina.pipelines.tree import Entry, Mapping, Node, Scalar, Sequence, kind

T = TypeVar("T")
MAX_FINDINGS = 200
MAX_HINTS = 40  # different words that are looked up in a file
MAX_CANDIDATES = 100
MAX_NAME = 40  # letters


class Reader:
    """Collects findings. A message begins with the path of the value (`pipelines.default[0].step.size: …`)."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []
        self._seen: set[tuple[str, str, int, int]] = set()
        self._near: dict[tuple[str, tuple[str, ...]], str | None] = {}

    def add(self, severity: Severity, code: str, path: str, message: str, span: Span, hint: str | None = None) -> None:
        """One finding; the same one about the same text (an anchor used many times) is kept once."""
        mark = (code, message, span.line, span.column)
        if mark not in self._seen and len(self.found) < MAX_FINDINGS:
            self._seen.add(mark)
            told = _line(f"{path}: {message}" if path else message)
            self.found.append(Diagnostic(severity, code, told, span, None if hint is None else _line(hint)))

    def error(self, path: str, message: str, span: Span, hint: str | None = None, code: str = "pipeline/invalid") -> None:
        self.add("error", code, path, message, span, hint)

    def warn(self, path: str, message: str, span: Span, hint: str | None = None, code: str = "pipeline/doubtful") -> None:
        self.add("warning", code, path, message, span, hint)

    @property
    def full(self) -> bool:
        """Nothing more is kept: work that only makes findings can stop."""
        return len(self.found) >= MAX_FINDINGS

    def near(self, word: str, candidates: Iterable[str]) -> str | None:
        """`nearest`, with bounds: a hostile file has many long names. A question that was answered before costs nothing."""
        most = len(word) // 3 + 1
        few = tuple(one for one in islice(candidates, MAX_CANDIDATES) if abs(len(one) - len(word)) <= most)
        asked = (word, few)
        if asked not in self._near and len(word) <= MAX_NAME and len(self._near) < MAX_HINTS:
            self._near[asked] = nearest(word, few)
        return self._near.get(asked)

    def mapping(self, node: Node, path: str, *, empty: bool = False) -> Mapping | None:
        """A mapping with at least one key, unless `empty`."""
        if not isinstance(node, Mapping):
            self.error(path, f"{kind(node)} where a mapping (`key: value` lines) belongs", node.span)
            return None
        if not node.entries and not empty:
            self.error(path, "has no keys", node.span)
            return None
        return node

    def items(self, node: Node, path: str, *, most: int | None = None, least: int = 1, what: str = "items") -> tuple[Node, ...]:
        if not isinstance(node, Sequence):
            hint = f"write `- {node.text}` in a line of its own" if isinstance(node, Scalar) and node.value is not None else None
            self.error(path, f"{kind(node)} where a list (lines beginning with -) belongs", node.span, hint)
            return ()
        if len(node.items) < least:
            self.error(path, f"the list is empty; at least {least} belongs there", node.span)
        if most is not None and len(node.items) > most:
            self.error(path, f"{len(node.items)} {what} listed, at most {most} are allowed", node.span)
        return node.items

    def text(self, node: Node, path: str, *, blank: bool = False) -> Text | None:
        """A string. YAML's other plain values are refused as the published schema does; yes, no, on and off are texts to everyone who writes them."""
        if not isinstance(node, Scalar):
            self.error(path, f"{kind(node)} where a text belongs", node.span, self.colon_hint(node))
            return None
        if isinstance(node.value, str) or (isinstance(node.value, bool) and node.text.lower() not in ("true", "false")):
            if not node.value and not blank and node.value is not False:
                self.error(path, "is empty", node.span)
                return None
            return Text(node.text, node.span)
        if node.value is None:
            self.error(path, "is empty", node.span)
        else:
            self.error(path, f"{kind(node)} where a text belongs", node.span, f'write it quoted: "{node.text}"')
        return None

    def string(self, node: Node, path: str, *, blank: bool = False) -> str | None:
        found = self.text(node, path, blank=blank)
        return None if found is None else found.value

    def texts(self, node: Node, path: str, *, most: int | None = None, least: int = 1, what: str = "items") -> tuple[Text, ...]:
        found = (
            self.text(item, f"{path}[{index}]") for index, item in enumerate(self.items(node, path, most=most, least=least, what=what))
        )
        return tuple(item for item in found if item is not None)

    def flag(self, node: Node, path: str) -> bool | None:
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        self.error(path, f"{kind(node)} where true or false belongs", node.span)
        return None

    def number(self, node: Node, path: str, *, least: int, unit: str = "") -> int | None:
        if not isinstance(node, Scalar) or isinstance(node.value, bool) or not isinstance(node.value, int):
            self.error(path, f"{kind(node)} where a whole number{unit} belongs", node.span)
            return None
        if node.value < least:
            self.error(path, f"{node.text} is too small; the least is {least}{unit}", node.span)
            return None
        return node.value

    def choice(self, node: Node, path: str, allowed: tuple[str, ...]) -> str | None:
        if isinstance(node, Scalar) and node.value is not None and node.text in allowed:
            return node.text
        word = node.text if isinstance(node, Scalar) else kind(node)
        near = self.near(word, allowed)
        self.error(path, f'"{word}" is not one of {", ".join(allowed)}', node.span, f'did you mean "{near}"?' if near else None)
        return None

    def assignments(self, node: Node, path: str, *, lists: bool = False, most: int | None = None, least: int = 1) -> tuple[Assignment, ...]:
        """`NAME: value` lines."""
        found = self.mapping(node, path, empty=least == 0)
        if found is None:
            return ()
        if most is not None and len(found.entries) > most:
            self.error(path, f"{len(found.entries)} variables given, at most {most} are allowed", node.span)
        result = []
        for entry in found:
            inner = f"{path}.{entry.key}"
            if lists and isinstance(entry.value, Sequence):
                result.append(Assignment(entry.key, tuple(item.value for item in self.texts(entry.value, inner, least=0)), entry.span))
                continue
            value = self.string(entry.value, inner, blank=True)
            if value is not None:
                result.append(Assignment(entry.key, value, entry.span))
        return tuple(result)

    def unknown(self, found: Mapping, path: str, known: Iterable[str], *, ignored: str = "is not a known key and has no effect") -> None:
        """A warning for each key that nobody reads (the service takes it in silence), with the key that was meant."""
        names = sorted(known)
        for entry in found:
            if entry.key in names:
                continue
            if self.full:
                return
            near = self.near(entry.key, names)
            message = f'the key "{entry.key}" {ignored}' + (f' (did you mean "{near}"?)' if near else "")
            self.warn(
                path,
                message,
                entry.span,
                None if near else f"known here: {', '.join(names)}",
                "pipeline/misspelt-key" if near else "pipeline/unknown-key",
            )

    def colon_hint(self, node: Node) -> str | None:
        """`- echo a: b` is a mapping to YAML; everyone who writes it means a text."""
        if isinstance(node, Mapping) and len(node.entries) == 1 and isinstance(node.entries[0].value, Scalar):
            entry = node.entries[0]
            assert isinstance(entry.value, Scalar)
            if " " in entry.key or entry.key in ("echo",):
                return f"a text that holds `: ` must be quoted: '{entry.key}: {entry.value.text}'"
        return None


def places(found: Mapping) -> Places:
    return {entry.key: entry.value.span for entry in found}


def take(found: Mapping, key: str, path: str, read: Callable[[Node, str], T | None]) -> T | None:
    """The value of `key` by `read`, or None when it is not written or is wrong."""
    node = found.get(key)
    return None if node is None else read(node, f"{path}.{key}" if path else key)


def each(node: Node, path: str, reader: Reader, read: Callable[[Entry, str], T | None], *, empty: bool = False) -> list[T]:
    """`read` over every entry of a mapping whose keys are names of the user."""
    found = reader.mapping(node, path, empty=empty)
    if found is None:
        return []
    results = (read(entry, f"{path}.{entry.key}") for entry in found)
    return [result for result in results if result is not None]


def _line(text: str) -> str:
    """What a file's text is part of, as one line that a terminal only shows."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
