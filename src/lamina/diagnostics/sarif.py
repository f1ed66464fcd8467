"""Findings as SARIF 2.1.0, the form that code hosts and editors read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.render import Json
from lamina.diagnostics.span import Span

_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def sarif(found: Iterable[Diagnostic], *, version: str, summaries: Mapping[str, str] | None = None) -> Json:
    """One run of lamina. Columns count from 1 in characters, as spans do. `summaries`: a line for each rule that has one."""
    items = tuple(found)
    rules = sorted({item.code for item in items})
    driver: Json = {"name": "lamina", "version": version, "rules": [_rule(rule, (summaries or {}).get(rule)) for rule in rules]}
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "results": [_result(item, rules.index(item.code)) for item in items],
            }
        ],
    }


def _rule(name: str, summary: str | None) -> Json:
    return {"id": name} if summary is None else {"id": name, "shortDescription": {"text": summary}}


def _result(item: Diagnostic, rule: int) -> Json:
    text = item.message if item.hint is None else f"{item.message} ({item.hint})"
    result: Json = {"ruleId": item.code, "ruleIndex": rule, "level": _LEVELS[item.severity], "message": {"text": text}}
    if item.span is not None:
        location: Json = {"artifactLocation": {"uri": item.span.source.name}, "region": _region(item.span)}
        result["locations"] = [{"physicalLocation": location}]
    return result


def _region(span: Span) -> Json:
    region: Json = {"startLine": span.line}
    if span.column:
        region["startColumn"] = span.column
    if span.end_line >= span.line and span.end_column:
        region["endLine"] = span.end_line
        region["endColumn"] = span.end_column
    return region
