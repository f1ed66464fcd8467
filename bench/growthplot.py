"""bench/growth.py's figures as an SVG (one panel for each axis, both axes logarithmic) and as a Markdown table."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, floor, log10

Row = dict[str, list[float]]
"""Size -> [processor seconds, wall seconds]."""

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LEFT, _GAP = 300, 250, 46, 54, 58, 62
_CLASSES = {"cold": "a", "one file edited": "b", "nothing changed": "c", "64 lookups": "d"}
_WHAT = {"files": "files of the context", "steps": "steps of the Dockerfile", "records": "records in the store"}
_STYLE = """
  svg { font: 12px system-ui, sans-serif; color-scheme: light dark }
  .page { fill: #ffffff } text { fill: #1f2328 } .grid { stroke: #d8dee4 } .frame { stroke: #8c959f; fill: none }
  .slope { stroke: #8c959f; stroke-dasharray: 3 4 } .slopeword { fill: #59636e; font-size: 11px } .title { font-weight: 600 }
  .a { stroke: #0550ae } .b { stroke: #bc4c00 } .c { stroke: #116329 } .d { stroke: #8250df }
  .line { fill: none; stroke-width: 2 } .dot { stroke-width: 2 } .dot { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } .frame { stroke: #6e7681 }
    .slope { stroke: #6e7681 } .slopeword { fill: #9198a1 } .dot { fill: #0d1117 }
    .a { stroke: #58a6ff } .b { stroke: #ffa657 } .c { stroke: #56d364 } .d { stroke: #d2a8ff }
  }
"""


def svg(found: dict[str, dict[str, Row]]) -> str:
    """Dashed lines rise as sizes do: what runs along them is linear."""
    panels, at = [], _LEFT
    for axis, cases in found.items():
        panels.append(_panel(at, axis, cases))
        at += _WIDTH + _GAP
    width, height = at - _GAP + 20, _TOP + _HEIGHT + _BOTTOM + 26
    legend, x = [], _LEFT
    for case, kind in _CLASSES.items():
        if any(case in cases for cases in found.values()):
            legend.append(f'<path class="line {kind}" d="M{x} {height - 14}h22"/><text x="{x + 28}" y="{height - 10}">{case}</text>')
            x += 50 + 7 * len(case)
    legend.append(f'<path class="slope" d="M{x} {height - 14}h22"/><text x="{x + 28}" y="{height - 10}">linear</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="Processor seconds of builds by files, steps and records">\n<style>{_STYLE}</style>\n'
        f'<rect class="page" width="{width}" height="{height}"/>\n' + "\n".join([*panels, *legend]) + "\n</svg>\n"
    )


def _panel(left: int, axis: str, cases: dict[str, Row]) -> str:
    sizes = [int(size) for size in next(iter(cases.values()))]
    values = [row[str(size)][0] for row in cases.values() for size in sizes]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    first, last = log10(sizes[0]), log10(sizes[-1])

    def across(size: float) -> float:
        return round(left + 16 + (_WIDTH - 32) * (log10(size) - first) / (last - first or 1), 1)

    def up(seconds: float) -> float:
        return round(_TOP + _HEIGHT - _HEIGHT * (log10(seconds) - low) / (high - low or 1), 1)

    out = [f'<text class="title" x="{left}" y="{_TOP - 24}">Processor seconds by {axis}</text>']
    for power in range(low, high + 1):
        y = up(10**power)
        out.append(
            f'<path class="grid" d="M{left} {y}h{_WIDTH}"/><text x="{left - 8}" y="{y + 4}" text-anchor="end">{_seconds(10.0**power)}</text>'
        )
    for size in sizes:
        x = across(size)
        out.append(
            f'<path class="grid" d="M{x} {_TOP}v{_HEIGHT}"/><text x="{x}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{size:,}</text>'
        )
    middle = left + _WIDTH / 2
    out.append(f'<text x="{middle}" y="{_TOP + _HEIGHT + 38}" text-anchor="middle">{_WHAT[axis]}</text>')
    if axis != "records":
        for power in range(low - 6, high + 1):
            out.append(_slope(sizes, power, low, high, across, up))
    for case, row in cases.items():
        kind = _CLASSES[case]
        points = [(across(size), up(row[str(size)][0])) for size in sizes]
        out.append(f'<path class="line {kind}" d="M' + "L".join(f"{x} {y}" for x, y in points) + '"/>')
        out += [
            f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="3.5"><title>{case}, {s:,}: {row[str(s)][0]:.4g} s</title></circle>'
            for s, (x, y) in zip(sizes, points)
        ]
    out.append(f'<rect class="frame" x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}"/>')
    return "\n".join(out)


def _slope(sizes: list[int], power: int, low: int, high: int, across, up) -> str:  # type: ignore[no-untyped-def]  # two functions of _panel
    """The part inside of the panel of the line that is 10^power seconds at the first size and grows as the sizes do."""
    begin, end = sizes[0], sizes[-1]
    value = 10.0**power
    if value < 10.0**low:
        begin, value = begin * 10.0**low / value, 10.0**low
    if begin >= end:
        return ""
    top = value * end / begin
    if top > 10.0**high:
        end, top = begin * 10.0**high / value, 10.0**high
    return f'<path class="slope" d="M{across(begin)} {up(value)}L{across(end)} {up(top)}"/>' if end > begin else ""


def _seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"


def table(found: dict[str, dict[str, Row]]) -> str:
    """Markdown; the step is of processor seconds, from one size to the next."""
    out = []
    for axis, cases in found.items():
        sizes = list(next(iter(cases.values())))
        out.append(f"| {_WHAT[axis]} | " + " | ".join(f"{int(size):,}" for size in sizes) + " | steps |")
        out.append("| --- |" + " ---: |" * len(sizes) + " --- |")
        for case, row in cases.items():
            cells = " | ".join(f"{_show(row[size][0])} ({_show(row[size][1])})" for size in sizes)
            grown = ", ".join(f"{row[b][0] / row[a][0]:.1f}" for a, b in pairwise(sizes))
            out.append(f"| {case} | {cells} | {grown} |")
        out.append("")
    return "\n".join(out)


def _show(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"
