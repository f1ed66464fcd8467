"""bitbucket-pipelines.yml files: real ones load and plan, invalid ones are refused where their reason says, doubtful ones run and warn.

Layout: manifest.json (`cases`: name and `schema` accepted|schema|yaml), cases/NAME.yml, invalid/NAME.yml and warn/NAME.yml, each with NAME.reason: `error: …` or
`warning: …`. A reason is held to by its ideas: the place that it names (`pipelines.default[0].step.size`), the values that it quotes, and its
severity and, where it gives one, the line. Wording is our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.choose import Start
from lamina.pipelines.lint import lint
from lamina.pipelines.load import load
from lamina.pipelines.plan import Request, plan_pipeline
from lamina.testing.conformance import NoData, Outcome, locate

_WORD = re.compile(r"[a-z][a-z0-9-]{3,}")
_QUOTED = re.compile(r'"([^"]+)"')
_LINE = re.compile(r"\bline (\d+)")
_EMPTY = frozenset(
    [
        "that",
        "with",
        "from",
        "this",
        "must",
        "have",
        "only",
        "more",
        "than",
        "which",
        "where",
        "when",
        "does",
        "under",
        "given",
        "not",
        "into",
        "step",
        "steps",
        "pipelines",
        "default",
        "error",
        "warning",
    ]
)
LEAST_SHARED = 0.3  # reasons are prose; a finding about something else shares a tenth
STEM = 6  # letters


def run(directory: Path) -> Iterator[Outcome]:
    root = locate(directory, "cases", "pipelines/cases").parent
    accepted = _manifest(root)
    for path in sorted((root / "cases").glob("*.yml")):
        yield Outcome(f"cases/{path.stem}", tuple(_real(path, accepted.get(path.stem, "accepted"))))
    for folder, severity in (("invalid", "error"), ("warn", "warning")):
        for path in sorted((root / folder).glob("*.yml")):
            yield Outcome(f"{folder}/{path.stem}", tuple(_told(path, severity)))


def _manifest(root: Path) -> dict[str, str]:
    try:
        cases = json.loads((root / "manifest.json").read_bytes())["cases"]
        return {str(case["name"]): str(case["schema"]) for case in cases}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoData(f"{root}/manifest.json: {error}") from None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _real(path: Path, schema: str) -> Iterator[str]:
    """What the service takes loads, and each of its pipelines can be planned. What the schema refuses is refused, or taken with a reason."""
    try:
        document = load(_text(path), path.name)
    except LaminaError as error:
        if schema == "accepted":
            yield f"refused: {error.message}"
        elif not error.spans:
            yield f"refused without a line: {error.message}"
        return
    if schema != "accepted" and not document.warnings:
        yield "taken without a word; the published schema refuses it"
    yield from _plans(path)


def _plans(path: Path) -> Iterator[str]:
    document = load(_text(path), path.name)
    for pipeline in document.pipelines():
        needed = {one.name: one.allowed[0] for one in pipeline.variables if one.default is None and one.allowed}
        try:
            made = plan_pipeline(document, pipeline, Request(Start("branch", "main"), answers=needed))
        except LaminaError as error:
            yield f"{pipeline.path} cannot be planned: {error.message}"
            continue
        if not made.steps() and not made.problems and not pipeline.destinations:
            yield f"{pipeline.path}: a plan without steps"


def _told(path: Path, severity: str) -> Iterator[str]:
    reason = path.with_suffix(".reason").read_text().strip()
    text = _text(path)
    found = lint(text, path.name)
    told = [item for item in found if item.severity == severity]
    if not told:
        yield f"no {severity}; expected {reason}"
        return
    for item in told:
        if item.span is None:
            yield f"without a line: {item.message}"
    share = _shared(reason, told)
    if share < LEAST_SHARED:
        yield f"says {[item.message for item in told]}; expected the idea of {reason!r} ({share:.0%} of its words)"
    wanted = _LINE.search(reason)
    lines = {item.span.line for item in told if item.span is not None}
    if wanted is not None and int(wanted[1]) not in lines:
        yield f"lines {sorted(lines)}; expected line {wanted[1]}"
    if severity == "error":
        try:
            load(text, path.name)
        except LaminaError:
            return
        if not any(item.code == "pipeline/misspelt-key" for item in told):
            yield "lint finds an error and load takes the file"
    else:
        yield from (f"an error too: {item.message}" for item in found if item.severity == "error")
        yield from _plans(path)


def _shared(reason: str, told: list[Diagnostic]) -> float:
    """How many of the reason's words and quoted values the findings have between them; a word counts by its beginning."""
    body = reason.partition(":")[2]
    said = " ".join(f"{item.message} {item.hint or ''}" for item in told).lower()
    words = {word[:STEM] for word in _WORD.findall(body.lower()) if word not in _EMPTY} | {word.lower() for word in _QUOTED.findall(body)}
    return sum(word in said for word in words) / max(1, len(words))
