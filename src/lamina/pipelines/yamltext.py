"""Text to a tree with positions, built from the events of PyYAML's parser.

Own construction, because a pipelines file needs what no loader offers together: the position of every node, an error for a duplicate key, merge
keys, and bounds. An alias is a shared node, so a file of a few lines cannot take much memory here; it is refused when its nodes, counted once for
each place where they are used, would be more than MAX_NODES ("billion laughs"), since everything behind this walks it place by place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

from lamina.diagnostics.span import Source, Span
from lamina.pipelines.tree import Anchor, Entry, Mapping, Node, Plain, Scalar, Sequence, Tree, YamlError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yaml.events import Event

MAX_TEXT = 1 << 20  # characters
MAX_DEPTH = 64
MAX_NODES = 100_000

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(word for base in ("true", "yes", "on") for word in (base, base.capitalize(), base.upper()))
_FALSE = frozenset(word for base in ("false", "no", "off") for word in (base, base.capitalize(), base.upper()))
_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)
_CONFLICT = re.compile(r"(?:<{7}|={7}|>{7}|\|{7})(?: |$)")
_BREAKS = re.compile("[\x85\u2028\u2029]|\r(?!\n)")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"


def parse(text: str, name: str = "bitbucket-pipelines.yml") -> Tree:
    """The one document of `text`. Raises YamlError with a span."""
    import yaml

    source = Source(name, text)
    if len(text) > MAX_TEXT:
        raise YamlError(f"the file has {len(text)} characters; {MAX_TEXT} are allowed", spans=(Span(source, 1),))
    builder = _Builder(source)
    try:
        text.encode()
        # The stubs do not say that a loader without libyaml's is as good.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return builder.document(yaml.parse(text, Loader=loader))
    except UnicodeEncodeError as error:
        raise YamlError("the text holds a lone surrogate, which is no character", spans=(_place(source, error.start),)) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(source, error) from None
    except yaml.reader.ReaderError:
        # libyaml counts bytes here; the character is easier found than its place counted.
        wrong = _FORBIDDEN.search(text)
        place = _place(source, 0 if wrong is None else wrong.start())
        told = "a character" if wrong is None else f"the character U+{ord(wrong[0]):04X}"
        raise YamlError(f"{told} is not allowed in YAML", spans=(place,)) from None


class _Builder:
    def __init__(self, source: Source) -> None:
        self.source = source
        # YAML 1.1 breaks lines at characters where nobody else does: then lines are counted from the parser's index.
        self.starts = [0, *(match.end() for match in re.finditer("\n", source.text))] if _BREAKS.search(source.text) else []
        self.named: dict[str, Node | None] = {}
        self.spans: dict[str, Span] = {}
        self.anchors: list[tuple[str, Span]] = []
        self.used: set[int] = set()
        self.current: dict[str, int] = {}
        self.sizes: dict[int, int] = {}
        self.merging = 0
        self.kept: list[Node] = []  # ids in `sizes` stay unique as long as the nodes live

    def place(self, index: int) -> tuple[int, int]:
        line = bisect_right(self.starts, index)
        return line, index - self.starts[line - 1] + 1

    def document(self, events: Iterator[Event]) -> Tree:
        from yaml.events import DocumentStartEvent, StreamEndEvent

        self.events = events
        next(events)
        first = next(events)
        if isinstance(first, StreamEndEvent):
            raise YamlError(
                "the file is empty", spans=(Span(self.source, 1),), hint="a pipelines file needs at least `pipelines:` with one pipeline"
            )
        root = self.node(next(events), 1)
        next(events)
        again = next(events)
        if isinstance(again, DocumentStartEvent):
            raise YamlError("a second YAML document begins here; a pipelines file is one document", spans=(self.span(again),))
        return Tree(root, tuple(Anchor(name, span, index in self.used) for index, (name, span) in enumerate(self.anchors)))

    def node(self, event: Event, depth: int) -> Node:
        from yaml.events import AliasEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent

        if isinstance(event, AliasEvent):
            return self.alias(str(event.anchor), self.span(event))
        if depth > MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", spans=(self.span(event),))
        assert isinstance(event, (ScalarEvent, SequenceStartEvent, MappingStartEvent))
        anchor: str | None = event.anchor
        if anchor is not None:
            self.current[anchor] = len(self.anchors)
            self.anchors.append((anchor, self.span(event)))
            self.named[anchor] = None
        built: Node
        if isinstance(event, ScalarEvent):
            built, size = self.scalar(event), 1
        elif isinstance(event, SequenceStartEvent):
            built, size = self.sequence(event, depth)
        else:
            built, size = self.mapping(event, depth)
        if size > MAX_NODES:
            raise YamlError(f"aliases make this more than {MAX_NODES} values", spans=(built.span,))
        self.sizes[id(built)] = size
        self.kept.append(built)
        if anchor is not None:
            self.named[anchor] = built
        return built

    def alias(self, name: str, span: Span) -> Node:
        if name not in self.named:
            from lamina.diagnostics.errors import nearest

            near = nearest(name, sorted(self.named))
            raise YamlError(
                f'the alias "*{name}" has no anchor "&{name}" before it',
                spans=(span,),
                hint=f'did you mean "*{near}"?'
                if near
                else "an anchor must stand above its aliases; a text that begins with * must be quoted",
            )
        node = self.named[name]
        if node is None:
            raise YamlError(f'the alias "*{name}" stands inside its own anchor', spans=(span,))
        self.used.add(self.current[name])
        return node

    def scalar(self, event: Event) -> Scalar:
        from yaml.events import ScalarEvent

        assert isinstance(event, ScalarEvent)
        text, span = str(event.value), self.span(event)
        tag: str | None = event.tag
        if tag in (None, "!"):
            plain = tag is None and bool(event.implicit[0])
            return Scalar(text, resolve(text) if plain else text, span)
        if tag == f"{_TAG}str":
            return Scalar(text, text, span)
        if tag in (f"{_TAG}null", f"{_TAG}bool", f"{_TAG}int", f"{_TAG}float"):
            return Scalar(text, resolve(text), span)
        raise YamlError(f"the tag {_tag(str(tag))} is not supported", spans=(span,))

    def sequence(self, event: Event, depth: int) -> tuple[Sequence, int]:
        from yaml.events import SequenceEndEvent

        self.collection_tag(event, "seq")
        items: list[Node] = []
        while not isinstance(inner := next(self.events), SequenceEndEvent):
            items.append(self.node(inner, depth + 1))
        return Sequence(tuple(items), self.span(event, inner)), 1 + sum(self.sizes[id(item)] for item in items)

    def mapping(self, event: Event, depth: int) -> tuple[Mapping, int]:
        from yaml.events import MappingEndEvent

        self.collection_tag(event, "map")
        own: dict[str, Entry] = {}
        merged: list[Mapping] = []
        while not isinstance(inner := next(self.events), MappingEndEvent):
            key = self.node(inner, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if not isinstance(key, Scalar):
                raise YamlError("a key must be a plain text", spans=(key.span,))
            if key.text == "<<" and getattr(inner, "implicit", (False,))[0]:
                merged += self.merges(value, key.span)
            elif key.value is None and not key.text:
                raise YamlError("a key is missing before the colon", spans=(key.span,))
            elif key.text in own:
                first = own[key.text].span
                raise YamlError(
                    f'the key "{key.text}" is given twice in one mapping (first in line {first.line})',
                    spans=(key.span, first),
                    hint="a loader that takes it keeps the last one in silence; remove one or merge the two",
                )
            else:
                own[key.text] = Entry(key.text, key.span, value)
        entries = dict(own)
        for source in merged:
            self.merging += len(source.entries)
            if self.merging > MAX_NODES:
                raise YamlError(f"merge keys copy more than {MAX_NODES} entries", spans=(self.span(event),))
            for entry in source:
                entries.setdefault(entry.key, Entry(entry.key, entry.span, entry.value, True))
        size = 1 + sum(1 + self.sizes[id(entry.value)] for entry in entries.values())
        return Mapping(tuple(entries.values()), self.span(event, inner)), size

    def merges(self, value: Node, span: Span) -> list[Mapping]:
        """The mappings that `<<` names; of several the earlier one wins."""
        candidates = value.items if isinstance(value, Sequence) else (value,)
        found = [item for item in candidates if isinstance(item, Mapping)]
        if len(found) != len(candidates):
            raise YamlError("<< merges mappings only", spans=(span,), hint="write `<<: *anchor` where the anchor is on a mapping")
        return found

    def collection_tag(self, event: Event, expected: str) -> None:
        tag: str | None = getattr(event, "tag", None)
        if tag not in (None, "!", f"{_TAG}{expected}"):
            raise YamlError(f"the tag {_tag(str(tag))} is not supported", spans=(self.span(event),))

    def span(self, event: Event, end: Event | None = None) -> Span:
        start, stop = event.start_mark, (end or event).end_mark
        assert start is not None
        assert stop is not None
        if self.starts:
            return Span(self.source, *self.place(start.index), *self.place(stop.index))
        if end is not None and stop.column == 0 and stop.line > start.line:
            return Span(self.source, start.line + 1, start.column + 1, stop.line, 0)
        return Span(self.source, start.line + 1, start.column + 1, stop.line + 1, stop.column + 1)


def resolve(text: str) -> Plain:
    """The value of a plain scalar by YAML 1.1, without its dates and its base 60 (which nobody means)."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return float(
            text.replace("_", "")
            .replace(".inf", "inf")
            .replace(".Inf", "inf")
            .replace(".INF", "inf")
            .replace(".nan", "nan")
            .replace(".NaN", "nan")
            .replace(".NAN", "nan")
        )
    return text


def _integer(text: str) -> Plain:
    digits = text.replace("_", "")
    sign = -1 if digits[0] == "-" else 1
    digits = digits.lstrip("+-")
    if not digits or digits in ("0b", "0x") or len(digits) > 64:
        return text
    if digits[:2] in ("0b", "0x"):
        return sign * int(digits, 0)
    return sign * (int(digits, 8) if len(digits) > 1 and digits[0] == "0" else int(digits))


def _syntax(source: Source, error: object) -> YamlError:
    """A parser's complaint in one line, with a way out for the mistakes that real files make."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", "") or "not YAML")
    context = getattr(error, "context", None)
    line = 1 if mark is None else min(mark.line + 1, source.text.count("\n") + 1)
    span = Span(source, line, 0 if mark is None or line != mark.line + 1 else mark.column + 1)
    conflict = next((index for index, row in enumerate(source.text.split("\n"), 1) if _CONFLICT.match(row)), None)
    if conflict is not None:
        return YamlError(
            "a merge conflict was committed here",
            spans=(Span(source, conflict, 1),),
            hint="keep one side and remove the lines with <<<<<<<, ======= and >>>>>>>",
        )
    row = source.line(line)
    hint = None
    if "alias" in str(context) or "alphabetic or numeric" in problem:
        hint = "a text that begins with * or & must be quoted: '*'"
    elif "\t" in row[: len(row) - len(row.lstrip())] or "'\\t'" in problem:
        problem, hint = "a tab cannot indent YAML", "use blanks"
    elif "mapping values are not allowed" in problem:
        hint = "a text that holds `: ` must be quoted, and keys of one mapping stand below each other"
    elif (
        "could not find expected ':'" in problem
        or "did not find expected key" in problem
        or "block end" in problem
        or "did not find expected '-'" in problem
    ):
        hint = "look at the indentation of this line and of the one before"
    elif "cannot start any token" in problem:
        hint = "a text that begins with @, ` or % must be quoted"
    told = f" ({context})" if context and "tab" not in problem else ""
    return YamlError(f"{problem}{told}", spans=(span,), hint=hint)


def _place(source: Source, index: int) -> Span:
    before = source.text[:index]
    return Span(source, before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


def _tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
