"""Pages about pipelines: the list of runs, one run, one step with its logs. They know no request and no socket."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.server.clock import rfc3339
from lamina.server.ui.drawing import svg
from lamina.server.ui.html import Markup, el, join
from lamina.server.ui.parts import cell, facts, page, table, tag, when
from lamina.server.ui.runs import Log, Run, RunStep
from lamina.server.ui.words import age, seconds, shorten

HERE = "/ui/pipelines"
_KINDS = {
    "passed": "hit", "kept": "hit", "hit": "hit", "shared": "hit", "failed": "failed", "killed": "failed", "running": "miss", "miss": "miss",
    "stopped": "failed",
}  # fmt: skip
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _HEAD = 230, 46, 44, 14, 12
_ROW, _LABEL, _BAR = 24, 230, 460


def kind(word: str) -> str:
    """A class of the sheet for any status, outcome or verdict."""
    return _KINDS.get(word, "none")


def runs(found: Sequence[Run], now: float) -> bytes:
    if not found:
        return page("Pipelines", HERE, [el("p", "No pipeline was run yet: ", el("code", "lamina pipeline run"))], again=True)
    rows = []
    for run in found:
        counts = [
            f"{sum(step.status == word for step in run.steps)} {word}" for word in ("passed", "failed", "skipped", "running", "waiting")
        ]
        rows.append(
            [
                cell(el("a", f"{run.title} #{run.number}", href=_address(run)), class_="wrap"),
                cell(tag(kind(run.outcome), run.outcome)),
                cell(run.pipeline, class_="wrap"),
                cell(join(run.branch or "", el("div", el("code", run.commit[:12]), class_="dim") if run.commit else None), class_="wrap"),
                cell(when(run.started, now), class_="nowrap"),
                cell(seconds(_run_took(run, now)), class_="n"),
                cell(", ".join(text for text in counts if not text.startswith("0 ")), class_="wrap"),
            ]
        )
    heads = ("Run", "Outcome", "Pipeline", "Branch, commit", "When", "Took", "Steps")
    return page("Pipelines", HERE, [table("Runs, newest first", heads, rows, numbers=(5,))], again=True)


def run(one: Run, now: float) -> bytes:
    body = [
        facts(
            ("Outcome", one.outcome),
            ("Pipeline", one.pipeline),
            ("When", rfc3339(one.started)[:19].replace("T", " ") + " UTC, " + age(now - one.started)),
            ("Took", seconds(_run_took(one, now))),
            ("Commit", one.commit[:12] or "none"),
            *([("Again", f"what did not pass in run {one.rerun_of}")] if one.rerun_of else []),
        ),
        el("p", one.reason, class_="dim"),
        el("h2", "Graph"),
        graph(one),
        el("h2", "Timeline"),
        timeline(one, now),
        el("h2", "Steps"),
        table("Steps", ("Step", "Result", "Why", "Image", "Took"), [_row(one, step) for step in one.steps], numbers=(4,)),
    ]
    caches = [row for step in one.steps for row in _cache_rows(step)]
    if caches:
        body += [el("h2", "Caches"), table("Caches", ("Cache", "Step", "Found", "Why", "Afterwards"), caches)]
    failures = [(step, name, text) for step in one.steps for name, text in step.failures]
    if failures:
        body += [
            el("h2", "Tests that failed"),
            table("Tests", ("Test", "Step", "What it said"), [_failure(*failure) for failure in failures[:200]]),
        ]
    return page(f"{one.title} #{one.number}", HERE, body, again=one.running)


def step(one: Run, found: RunStep, logs: Sequence[Log], now: float) -> bytes:
    body = [
        el(
            "p", el("a", f"{one.title} #{one.number}", href=_address(one)), " · ", tag(kind(found.status), found.status), f" {found.reason}"
        ),
        facts(
            ("Image", found.image or "none"),
            ("Took", seconds(_took(found, now)) if found.started or found.seconds else "not begun"),
            ("Services", ", ".join(found.services) or "none"),
            *([("Tests", found.tests)] if found.tests else []),
        ),
    ]
    if found.caches:
        body.append(table("Caches", ("Cache", "Step", "Found", "Why", "Afterwards"), _cache_rows(found)))
    for log in logs:
        left = f"{log.left_out} bytes before this are in the log file" if log.left_out else None
        body += [
            el("h2", log.name),
            *([el("p", left, class_="dim")] if left else []),
            el("pre", log.text or "nothing yet", class_="log", tabindex=0, aria_label=f"Log of {log.name}"),
        ]
    if not logs:
        body.append(el("p", "It has printed nothing."))
    return page(f"{found.number}. {found.name}", HERE, body, again=found.status == "running")


def graph(one: Run) -> Markup:
    """Columns follow each other; an edge goes from every step to those that wait for it."""
    columns: dict[int, list[RunStep]] = {}
    for step in one.steps:
        columns.setdefault(step.column, []).append(step)
    order = [columns[column] for column in sorted(columns)]

    def corner(column: int, row: int) -> tuple[int, int]:
        return 8 + column * (_WIDTH + _GAP_X), _HEAD + row * (_HEIGHT + _GAP_Y)

    lines, boxes = [], []
    for index, here in enumerate(order):
        for row, step in enumerate(here):
            x, y = corner(index, row)
            boxes.append(
                el(
                    "a",
                    el("title", f"{step.number}. {step.name}\n{step.status} {step.reason}"),
                    el("rect", x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=6),
                    el("text", shorten(f"{step.number}. {step.name}", 27), x=x + 10, y=y + 19),
                    el("text", shorten(_second_line(step), 31), x=x + 10, y=y + 36, class_="small"),
                    href=f"{_address(one)}/{step.number}",
                    class_=f"node {kind(step.status)}",
                )
            )
        if index == 0:
            continue
        # All of a column wait for all of the one before: the lines meet between them.
        middle = corner(index, 0)[0] - _GAP_X // 2
        ends = [corner(index - 1, row)[1] + _HEIGHT // 2 for row in range(len(order[index - 1]))]
        begins = [corner(index, row)[1] + _HEIGHT // 2 for row in range(len(here))]
        lines += [el("path", d=f"M{middle - _GAP_X // 2} {y}H{middle}", class_="edge") for y in ends]
        lines += [el("path", d=f"M{middle} {y}H{middle + _GAP_X // 2}", class_="edge") for y in begins]
        if min(*ends, *begins) != max(*ends, *begins):
            lines.append(el("path", d=f"M{middle} {min(*ends, *begins)}V{max(*ends, *begins)}", class_="edge"))
    width = 16 + max(1, len(order)) * (_WIDTH + _GAP_X) - _GAP_X
    height = _HEAD + max((len(here) for here in order), default=0) * (_HEIGHT + _GAP_Y)
    return svg("Graph of the run", width, height, [*lines, *boxes])


def timeline(one: Run, now: float) -> Markup:
    """From the beginning of the first step to the end of the last, or to now."""
    begun = [step for step in one.steps if step.started]
    if not begun:
        return el("p", "No step has begun.", class_="dim")
    first = min(step.started for step in begun)
    whole = max(step.started + _took(step, now) for step in begun) - first or 1.0
    rows = []
    for index, step in enumerate(sorted(begun, key=lambda step: (step.started, step.number))):
        y = index * _ROW
        left = _LABEL + (step.started - first) / whole * _BAR
        width = max(2.0, _took(step, now) / whole * _BAR)
        rows += [
            el("text", shorten(f"{step.number}. {step.name}", 31), x=4, y=y + 16),
            el("rect", x=f"{left:.1f}", y=y + 4, width=f"{width:.1f}", height=_ROW - 8, rx=3, class_=f"bar {kind(step.status)}"),
            el("text", seconds(_took(step, now)), x=f"{left + width + 6:.1f}", y=y + 16, class_="small"),
        ]
    return svg("Timeline of the run", _LABEL + _BAR + 80, len(begun) * _ROW, rows)


def _address(one: Run) -> str:
    return f"{HERE}/{one.project}/{one.number}"


def _run_took(one: Run, now: float) -> float:
    return max(0.0, now - one.started) if one.running else one.seconds


def _took(step: RunStep, now: float) -> float:
    return max(0.0, now - step.started) if step.status == "running" and step.started else step.seconds


def _second_line(step: RunStep) -> str:
    words = [step.status]
    if step.seconds:
        words.append(seconds(step.seconds))
    hits = sum(cache.verdict in ("hit", "shared") for cache in step.caches)
    if step.caches:
        words.append(f"{hits} of {len(step.caches)} caches")
    return ", ".join(words)


def _row(one: Run, step: RunStep) -> list[Markup]:
    told = [part for part in (step.reason, step.tests and f"tests: {step.tests}") if part]
    return [
        cell(
            el("a", f"{step.number}. {step.name}", href=f"{_address(one)}/{step.number}"),
            el("div", f"stage {step.stage}", class_="dim") if step.stage else None,
            class_="wrap",
        ),
        cell(tag(kind(step.status), step.status)),
        cell("; ".join(told), class_="wrap"),
        cell(el("code", step.image), class_="wrap"),
        cell(seconds(step.seconds) if step.seconds else "", class_="n"),
    ]


def _cache_rows(step: RunStep) -> list[list[Markup]]:
    return [
        [
            cell(cache.name),
            cell(f"{step.number}. {step.name}", class_="wrap"),
            cell(tag(kind(cache.verdict), cache.verdict)),
            cell(cache.reason, class_="wrap"),
            cell(cache.saved, class_="wrap"),
        ]
        for cache in step.caches
    ]


def _failure(step: RunStep, name: str, text: str) -> list[Markup]:
    first, _, rest = text.partition("\n")
    more = el("details", el("summary", "more"), el("pre", rest, class_="log")) if rest.strip() else None
    return [cell(name, class_="wrap"), cell(f"{step.number}. {step.name}", class_="wrap"), cell(join(first, more), class_="wrap")]
