"""A Dockerfile's text as a Document: stages, typed instructions, and all that is wrong with it.

The rules are BuildKit's (frontend/dockerfile/parser and /instructions). Other than there, one bad instruction does not hide
the next.
"""

from __future__ import annotations

import re

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.span import Source, Span
from lamina.dockerfile.build import Node, build, read_node
from lamina.dockerfile.instructions import AnyInstruction, Arg, Document, From, Heredoc, Stage
from lamina.dockerfile.lexer import Lexer, LogicalLine, heredoc_markers
from lamina.dockerfile.splitting import SplitError
from lamina.dockerfile.words import ExpansionError

_HEREDOC_KEYWORDS = ("ADD", "COPY", "RUN")


class DockerfileError(LaminaError):
    """A Dockerfile or a trigger that cannot be read; `diagnostics` has everything, the message is the first one's."""

    code = "dockerfile/invalid"
    default_exit = 2

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        first = diagnostics[0]
        super().__init__(first.message, hint=first.hint, spans=(first.span,) if first.span else ())
        self.diagnostics = diagnostics


def parse(text: str, name: str = "Dockerfile") -> Document:
    """Read a whole Dockerfile. Never raises for what the text says: see `Document.diagnostics`."""
    lexer = Lexer(Source(name, text.removeprefix("\ufeff")))
    items: list[AnyInstruction | None] = []
    in_stage = False
    while line := lexer.next():
        instruction = _instruction(lexer, line)
        is_from = isinstance(instruction, From) or line.text[:5].upper().split() == ["FROM"]
        if instruction is not None or is_from or not in_stage:
            items.append(instruction)
        in_stage = in_stage or is_from
    return _document(lexer, items)


def parse_trigger(expression: str, origin: Span) -> AnyInstruction:
    """One ONBUILD trigger of a base image's config. Every span is `origin`, the FROM that brought it. Raises DockerfileError."""
    lexer = Lexer(Source(f"ONBUILD trigger of {origin}", expression.removeprefix("\ufeff")))
    found: list[AnyInstruction] = []
    count = 0
    while line := lexer.next():
        count += 1
        instruction = _instruction(lexer, line, origin)
        if instruction is not None:
            found.append(instruction)
    problems = [item for item in lexer.diagnostics if item.severity == "error"]
    if not problems and count != 1:
        problems = [Diagnostic("error", "dockerfile/onbuild", f"the ONBUILD trigger {expression!r} must be one instruction")]
    if not problems and isinstance(found[0], From):
        problems = [Diagnostic("error", "dockerfile/onbuild", "FROM is not allowed as an ONBUILD trigger")]
    if problems:
        prefix = "in an ONBUILD trigger of the base image: "
        raise DockerfileError(tuple(Diagnostic("error", item.code, prefix + item.message, origin, item.hint) for item in problems))
    return found[0]


def _instruction(lexer: Lexer, line: LogicalLine, origin: Span | None = None) -> AnyInstruction | None:
    """Read one instruction with its here-documents; None after an error, which is then in the lexer's diagnostics."""
    source = lexer.source
    faults: list[SplitError] = []
    node: Node | None = None
    markers: list[Heredoc] = []
    try:
        node = read_node(line.text, 0, lexer.escape)
        inner = node.inner if node.inner and node.keyword == "ONBUILD" else node
        markers = heredoc_markers(line.text) if "<<" in line.text and inner.keyword in _HEREDOC_KEYWORDS and not inner.json else []
    except SplitError as found:
        faults.append(found)
        markers = _salvaged_markers(line.text)
    except ExpansionError as error:
        faults.append(SplitError("dockerfile/heredoc", error.message, 0, len(line.text)))
    heredocs: list[Heredoc] = []
    for marker in markers:
        heredoc = lexer.heredoc(marker, line)
        if heredoc is None:
            at = max(line.text.find("<<"), 0)
            end = re.compile(r"\S+").match(line.text, at)
            faults.append(
                SplitError(
                    "dockerfile/unterminated-heredoc",
                    f"the here-document {marker.name} has no end",
                    at,
                    end.end() if end else len(line.text),
                    f"a line that is just {marker.name} must follow",
                )
            )
            break
        heredocs.append(heredoc)
    if line.empty_continuation:
        lexer.diagnostics.append(
            Diagnostic(
                "warning",
                "NoEmptyContinuation",
                "blank lines inside of an instruction will become errors",
                Span(source, line.empty_continuation),
                "remove the blank line, or put a # there",
            )
        )
    result: AnyInstruction | None = None
    if node is not None and not faults:
        span = origin or line.span(source, 0, len(line.text.rstrip()))
        if origin is None:
            span = Span(source, span.line, span.column, lexer.line, 0 if heredocs or lexer.line != span.end_line else span.end_column)
        try:
            result = build(node, line, source, tuple(heredocs), span)
        except SplitError as found:
            faults.append(found)
    for fault in faults:
        lexer.error(fault.code, fault.message, line.span(source, fault.start, fault.end), fault.hint)
    return result


def _salvaged_markers(text: str) -> list[Heredoc]:
    """Here-documents of a line that could not be read, so that their bodies are not taken for instructions."""
    if "<<" not in text:
        return []
    try:
        return heredoc_markers(text)
    except ExpansionError:
        return []


def _document(lexer: Lexer, items: list[AnyInstruction | None]) -> Document:
    """`items` has None for what is or may be a FROM and could not be read: what follows belongs to no stage, without complaint."""
    source = lexer.source
    meta: list[Arg] = []
    stages: list[tuple[From, list[AnyInstruction]]] = []
    reported = unknown_stage = False
    for item in items:
        if item is None:
            unknown_stage = True
        elif isinstance(item, From):
            unknown_stage = False
            stages.append((item, []))
        elif unknown_stage:
            continue
        elif stages:
            stages[-1][1].append(item)
        elif isinstance(item, Arg):
            meta.append(item)
        elif not reported:
            reported = True
            word = item.text.split(maxsplit=1)[0]
            span = Span(source, item.span.line, item.span.column, item.span.line, item.span.column + len(word))
            lexer.error("dockerfile/before-from", f"{word} stands before the first FROM", span, "only ARG may stand there")
    if not items and not any(item.severity == "error" for item in lexer.diagnostics):
        lexer.error("dockerfile/empty", "there is no instruction in it", Span(source, max(lexer.line, 1)), "the first instruction is FROM")
    order = {id(item): index for index, item in enumerate(lexer.diagnostics)}
    lexer.diagnostics.sort(key=lambda item: (item.span.line if item.span else 0, order[id(item)]))
    return Document(
        source,
        lexer.escape,
        tuple(lexer.directives),
        tuple(meta),
        tuple(Stage(index, head, tuple(body)) for index, (head, body) in enumerate(stages)),
        tuple(lexer.diagnostics),
    )
