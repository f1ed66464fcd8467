"""The page of a build that runs, and the list of those on the page of all builds. They know no request and no socket."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lamina.server.running import LiveBuild, LiveStep
from lamina.server.ui.drawing import Bar, chart, graph, kind
from lamina.server.ui.html import Markup, el
from lamina.server.ui.parts import cell, facts, page, table, tag, when
from lamina.server.ui.steps import Step, Why
from lamina.server.ui.words import seconds, shorten

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")  # colours and titles of terminals
_DONE = ("hit", "ran", "failed", "skipped", "none")


def log_text(data: bytes) -> str:
    """A step's output as text: without a terminal's colours, a line that was written over as the lines that it was."""
    return _CONTROL.sub("", data.decode("utf-8", "replace")).replace("\r\n", "\n").replace("\r", "\n")


def running(found: Sequence[LiveBuild], now: float) -> list[Markup]:
    """Nothing when nothing runs."""
    if not found:
        return []
    rows = [
        [
            cell(el("a", shorten(one.title, 200), href=f"/ui/live/{one.id}"), class_="wrap"),
            cell(tag("running", "running")),
            cell(one.client, class_="nowrap"),
            cell(when(one.started, now), class_="nowrap"),
            cell(_progress(one), class_="nowrap"),
            cell(_doing(one), class_="wrap"),
        ]
        for one in found
    ]
    heads = ("Build", "State", "Asked by", "Began", "Steps", "Now")
    return [el("h2", "Running now"), table("Builds that run", heads, rows), el("h2", "Ended")]


def build(one: LiveBuild, now: float) -> bytes:
    body = [
        facts(
            ("State", "ended" if one.ended else "running"),
            ("Asked by", one.client),
            ("Began", when(one.started, now)),
            ("For", seconds(max(0.0, now - one.started)) if not one.ended else ""),
            ("Steps", _progress(one)),
        )
    ]
    if one.error:
        body.append(el("p", tag("failed", "failed"), " ", one.error))
    if one.notices:
        body.append(el("ul", [el("li", text) for text in one.notices]))
    if one.steps:
        rows = [_row(number, step, now) for number, step in enumerate(one.steps)]
        heads = ("Step", "State", "Reason", "Took", "Saved")
        body += [
            el("h2", "Steps"),
            table("Steps", heads, rows, numbers=(3, 4), ids=[f"step-{number}" for number in range(len(rows))]),
            el("h2", "Graph"),
            _graph(one.steps),
            el("h2", "Timeline"),
            _timeline(one, now),
        ]
    elif not one.ended:
        body.append(el("p", "Its Dockerfile and bases are being looked up.", class_="dim"))
    logs = [(number, step) for number, step in enumerate(one.steps) if step.log]
    if logs:
        body.append(el("h2", "Output"))
    for number, step in logs:
        body.append(_log(number, step))
    return page(f"Build of {shorten(one.title, 80)}", "/ui", body, again=not one.ended, every=1)


def _graph(steps: Sequence[LiveStep]) -> Markup:
    columns: dict[str, int] = {}
    drawn = []
    for step in steps:
        stage = columns.setdefault(step.stage, len(columns))
        told = step.error.partition("\n")[0] or step.reason
        drawn.append(Step(stage, step.text, step.state, Why(message=told), stage_name=step.stage, line=step.line))
    return graph(drawn, [list(step.inputs) for step in steps])


def _timeline(one: LiveBuild, now: float) -> Markup:
    """What has begun, from the build's beginning to now, or to the end of its last step."""
    begun = [step for step in one.steps if step.started]
    if not begun:
        return el("p", "No step has begun.", class_="dim")
    bars = [Bar(step.text, max(0.0, step.started - one.started), _took(step, now), kind(step.state)) for step in begun]
    last = max(bar.start + bar.seconds for bar in bars)
    return chart(bars, last if one.ended else max(last, now - one.started))


def _took(step: LiveStep, now: float) -> float:
    return max(0.0, now - step.started) if step.state == "running" else step.seconds


def _row(number: int, step: LiveStep, now: float) -> list[Markup]:
    told = step.error or step.reason
    shown = "" if step.state == "waiting" else seconds(_took(step, now))
    text = el("code", shorten(" ".join(step.text.split()), 400))
    return [
        cell(
            el("a", text, href=f"#log-{number}") if step.log else text,
            el("div", f"stage {step.stage}, line {step.line}", class_="dim"),
            class_="wrap",
        ),
        cell(tag(kind(step.state), step.state)),
        cell(told, class_="wrap"),
        cell(shown, class_="n"),
        cell(seconds(step.saved) if step.saved else "", class_="n"),
    ]


def _log(number: int, step: LiveStep) -> Markup:
    title = shorten(" ".join(step.text.split()), 100)
    left = f"… {step.left_out} bytes before this are left out\n" if step.left_out else ""
    return el(
        "section",
        el("h3", el("code", title)),
        el("pre", left + log_text(step.log), class_="log", tabindex=0, role="region", aria_label=f"Output of {title}"),
        id=f"log-{number}",
    )


def _progress(one: LiveBuild) -> str:
    hits = sum(step.state == "hit" for step in one.steps)
    done = sum(step.state in _DONE for step in one.steps)
    return f"{done} of {len(one.steps)}, {hits} hits" if one.steps else ""


def _doing(one: LiveBuild) -> str:
    names = [" ".join(step.text.split()) for step in one.steps if step.state == "running"]
    return shorten("; ".join(names), 160)
