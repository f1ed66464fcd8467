"""How a run is told afterwards: an outline of its steps, one line for each, a timeline."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.pipelines.masking import Masker
from lamina.pipelines.plan import Plan, PlannedGroup, PlannedItem, PlannedStep
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.show import visible

_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Outlined(msgspec.Struct, frozen=True):
    """A step before it has run. Steps of one `column` begin together; columns follow each other. `services` by name."""

    number: int
    name: str
    column: int
    stage: str = ""
    image: str = ""
    caches: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


def outline(plan: Plan) -> tuple[Outlined, ...]:
    """All steps that have scripts, children's among them."""
    found: list[Outlined] = []
    column = 0

    def walk(items: Sequence[PlannedItem], stage: str) -> None:
        nonlocal column
        for item in items:
            if isinstance(item, PlannedStep):
                step(item, stage)
                column += 1
            elif isinstance(item, PlannedGroup):
                for one in item.steps:
                    step(one, stage)
                column += 1
            else:
                walk(item.items, visible(item.name))

    def step(planned: PlannedStep, stage: str) -> None:
        if planned.child is not None:
            walk(planned.child.items, visible(planned.name))
            return
        found.append(
            Outlined(
                planned.number,
                visible(planned.name),
                column,
                stage,
                visible(Masker(planned.variables.secrets()).mask(planned.image.name)),
                tuple(visible(cache.name) for cache in planned.caches),
                tuple(visible(service.name) for service in planned.services),
            )
        )

    walk(plan.items, "")
    return tuple(found)


def summary_of(step: StepResult) -> str:
    """`3. Test: failed in 3.1 s (exit code 1)`."""
    took = f" in {step.seconds:.1f} s" if step.seconds else ""
    why = f" ({step.reason})" if step.reason and step.status != "passed" else ""
    tests = f", tests: {step.tests.words()}" if step.tests is not None else ""
    return f"{step.number}. {step.name}: {step.status}{took}{why}{tests}"


def timeline(steps: Sequence[StepResult], width: int = 100, *, blocks: bool = True) -> list[str]:
    """A bar for each step that ran, from its beginning to its end; nothing for fewer than two. `blocks`: in eighths of a character."""
    ran = sorted((step for step in steps if step.started and step.seconds), key=lambda step: (step.started, step.number))
    if len(ran) < 2:
        return []
    begin = min(step.started for step in ran)
    whole = max(step.started + step.seconds for step in ran) - begin
    label = min(30, max(len(f"{step.number}. {step.name}") for step in ran))
    room = max(10, width - label - 14)
    lines = []
    for step in ran:
        name = f"{step.number}. {step.name}"
        name = name if len(name) <= label else name[: label - 1] + "…"
        bar = _bar((step.started - begin) / whole * room, step.seconds / whole * room, room, blocks=blocks)
        lines.append(f"  {name:<{label}} |{bar}| {step.seconds:.1f} s")
    return [*lines, f"  {'':<{label}}  {'0 s':<{room - 8}}{f'{whole:.1f} s':>8}"]


def _bar(start: float, length: float, room: int, *, blocks: bool) -> str:
    if not blocks:
        first = min(int(start), room - 1)
        count = max(1, min(round(start + length), room) - first)
        return " " * first + "#" * count + " " * (room - first - count)
    first, part = divmod(round(start * 8), 8)
    last, rest = divmod(min(room * 8, max(round((start + length) * 8), first * 8 + part + 1)), 8)
    first = min(first, room - 1)
    cells = [" "] * room
    for index in range(first, last):
        cells[index] = "█"
    if rest and last < room:
        cells[last] = _EIGHTHS[rest]
    if part and cells[first] == "█":
        cells[first] = "▐" if part >= 4 else "█"
    return "".join(cells)
