"""Checks of a Dockerfile by the names that BuildKit gives them (https://docs.docker.com/reference/build-checks/).

Only what the text alone can say: no base image is looked at unless the caller passes what is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from lamina.diagnostics.diagnostic import Diagnostic, Severity
from lamina.diagnostics.errors import nearest
from lamina.diagnostics.span import Span
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.instructions import Document, Instruction


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule has to say; the rule's name and severity are added by `lint`."""

    message: str
    span: Span
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What rules look at. What is known of base images goes by their references as written: `base_names` their variables,
    `base_platforms` what they are for ("linux/arm64"); `platform` is the one that is built for."""

    document: Document
    ignore: IgnoreRules | None = None
    base_names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    base_platforms: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""


Rule = Callable[[Subject], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """`# check=skip=A,B;experimental=C;error=true`. "all" stands for every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False


def place(instruction: Instruction, word: str) -> Span:
    """Where `word` stands in the instruction, or its first line when it is not to be found as written."""
    span = instruction.span
    for number in range(span.line, max(span.end_line, span.line) + 1):
        line = span.source.line(number)
        start = span.column - 1 if number == span.line and span.column else 0
        found = line.find(word, start) if word else -1
        if found >= 0:
            return Span(span.source, number, found + 1, number, found + 1 + len(word))
    return Span(span.source, span.line, span.column)


def check_options(document: Document) -> tuple[CheckOptions, tuple[Diagnostic, ...]]:
    """The check directive, and what is wrong with it."""
    written = next(((value, span) for name, value, span in document.directives if name == "check"), None)
    if written is None:
        return CheckOptions(), ()
    skip: set[str] = set()
    experimental: set[str] = set()
    error = False
    problems: list[Diagnostic] = []
    value, span = written
    for part in value.split(";"):
        key, _, text = part.strip().partition("=")
        names = {name.strip() for name in text.split(",") if name.strip()}
        if key == "skip":
            skip |= names
        elif key == "experimental":
            experimental |= names
        elif key == "error" and text.strip().lower() in ("true", "false"):
            error = text.strip().lower() == "true"
        elif part.strip():
            near = nearest(key, ["skip", "error", "experimental"])
            hint = f"did you mean {near}?" if near and near != key else "skip=RULE,…  error=true  experimental=RULE,…"
            problems.append(Diagnostic("warning", "dockerfile/bad-check", f'"{part.strip()}" is no option of check', span, hint))
    return CheckOptions(frozenset(skip), frozenset(experimental), error), tuple(problems)


def lint(
    document: Document,
    *,
    ignore: IgnoreRules | None = None,
    base_names: Mapping[str, frozenset[str]] | None = None,
    base_platforms: Mapping[str, str] | None = None,
    platform: str = "",
    skip: frozenset[str] = frozenset(),
) -> tuple[Diagnostic, ...]:
    """What the rules say, in the order of lines; errors of the document itself are not repeated.

    `ignore` are the rules of the context's .dockerignore, `base_names` the names of the variables that base images set,
    `base_platforms` what they are for where `platform` is built for. The severity is "warning", or "error" after `# check=error=true`;
    advice is always "info".
    """
    from lamina.dockerfile.lintrules import ADVICE, EXPERIMENTAL, RULES

    options, problems = check_options(document)
    skipped = skip | options.skip
    if "all" in skipped:
        return problems
    subject = Subject(document, ignore, base_names or {}, base_platforms or {}, platform)
    found: list[Diagnostic] = list(problems)
    severity: Severity = "error" if options.error else "warning"
    for name, rule in RULES.items():
        wanted = name not in EXPERIMENTAL or name in options.experimental or "all" in options.experimental
        if name in skipped or not wanted:
            continue
        for item in rule(subject):
            found.append(Diagnostic("info" if name in ADVICE else severity, name, item.message, item.span, item.hint))
    found.sort(key=lambda item: (item.span.line if item.span else 0, item.span.column if item.span else 0))
    return tuple(found)
