"""A build as SVG: its graph in columns of stages and rows by depth, and its timeline. No styles inside: the classes are in the sheet."""

from __future__ import annotations

import msgspec

from lamina.server.ui.html import Markup, el
from lamina.server.ui.steps import Step, inputs
from lamina.server.ui.words import seconds, shorten

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _HEAD = 264, 46, 36, 22, 30
_CHARACTERS = 31
_KINDS = {"hit": "hit", "ran": "miss", "miss": "miss", "failed": "failed", "running": "running"}
_ROW, _LABEL, _BAR = 24, 260, 420


def kind(verdict: str) -> str:
    """A class of the sheet for any verdict."""
    return _KINDS.get(verdict, "none")


class Bar(msgspec.Struct, frozen=True):
    """`start` in seconds since the build's beginning; `kind`: a class of the sheet."""

    text: str
    start: float
    seconds: float
    kind: str


def graph(steps: list[Step], edges: list[list[int]] | None = None) -> Markup:
    """An edge goes down from an input to what stands on it. `edges`: what each step stands on, where it is known better than by the texts."""
    edges = inputs(steps) if edges is None else edges
    columns = {stage: number for number, stage in enumerate(dict.fromkeys(step.stage for step in steps))}
    depth: list[int] = []
    for before in edges:
        depth.append(max((depth[one] + 1 for one in before), default=0))

    def corner(index: int) -> tuple[int, int]:
        return 8 + columns[steps[index].stage] * (_WIDTH + _GAP_X), _HEAD + depth[index] * (_HEIGHT + _GAP_Y)

    lines = []
    for index, before in enumerate(edges):
        x, y = corner(index)
        for one in before:
            from_x, from_y = corner(one)
            if from_x == x:
                line = f"M{x + _WIDTH // 2} {from_y + _HEIGHT}V{y}"
            else:
                start, end = (from_x + _WIDTH, x) if from_x < x else (from_x, x + _WIDTH)
                bend = _GAP_X if from_x < x else -_GAP_X
                line = f"M{start} {from_y + _HEIGHT // 2}C{start + bend} {from_y + _HEIGHT // 2} {end - bend} {y + _HEIGHT // 2} {end} {y + _HEIGHT // 2}"
            lines.append(el("path", d=line, class_="edge"))
    heads = []
    for stage, column in columns.items():
        label = next(step.stage_label for step in steps if step.stage == stage)
        heads.append(el("text", shorten("stage " + label, 30), x=8 + column * (_WIDTH + _GAP_X), y=18, class_="head"))
    boxes = []
    for index, step in enumerate(steps):
        x, y = corner(index)
        told = step.reason.message or step.reason.code
        second = f"{step.verdict}: {told}" if told and kind(step.verdict) != "none" else told or step.verdict
        boxes.append(
            el(
                "a",
                el("title", f"{step.text}\n{second}"),
                el("rect", x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=6),
                el("text", shorten(" ".join(step.text.split()), _CHARACTERS), x=x + 10, y=y + 19),
                el("text", shorten(second, _CHARACTERS + 2), x=x + 10, y=y + 36, class_="small"),
                href=f"#step-{index}",
                class_=f"node {kind(step.verdict)}",
            )
        )
    width = 16 + len(columns) * (_WIDTH + _GAP_X) - _GAP_X
    height = _HEAD + (max(depth, default=0) + 1) * (_HEIGHT + _GAP_Y)
    return svg("Graph of the build", width, height, [*lines, *heads, *boxes])


def timeline(steps: list[Step]) -> Markup:
    """Start times are not kept: a step is drawn where its inputs end."""
    ends: list[float] = []
    bars: list[Bar] = []
    for step, before in zip(steps, inputs(steps)):
        start = max((ends[one] for one in before), default=0.0)
        ends.append(start + max(0.0, step.seconds))
        bars.append(Bar(step.text, start, step.seconds, kind(step.verdict)))
    return chart(bars, max(ends, default=0.0))


def chart(bars: list[Bar], whole: float) -> Markup:
    """`whole`: the seconds that the width stands for."""
    whole = whole or 1.0
    rows = []
    for index, bar in enumerate(bars):
        y = index * _ROW
        left = _LABEL + bar.start / whole * _BAR
        width = max(2.0, bar.seconds / whole * _BAR)
        rows += [
            el("text", shorten(" ".join(bar.text.split()), 35), x=4, y=y + 16),
            el("rect", x=f"{left:.1f}", y=y + 4, width=f"{width:.1f}", height=_ROW - 8, rx=3, class_=f"bar {bar.kind}"),
            el("text", seconds(bar.seconds), x=f"{left + width + 6:.1f}", y=y + 16, class_="small"),
        ]
    return svg("Timeline of the build", _LABEL + _BAR + 80, max(1, len(bars)) * _ROW, rows)


def svg(label: str, width: int, height: int, children: list[Markup]) -> Markup:
    """In a frame that scrolls."""
    drawn = el(
        "svg", children, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", width=width, height=height, aria_label=label
    )
    return el("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=label)
