"""Earlier builds, as they were recorded: which one a user means, its steps, two of them compared."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from lamina.cache.freshness import matches
from lamina.diagnostics.errors import LaminaError, nearest
from lamina.engine.images.finding import find_image
from lamina.graph import vertex as graph
from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore

_LINE = re.compile(r"line:? *([0-9]{1,9})")

Step = dict[str, Any]
"""A step as in docs/reference/report.md."""


class BuildNotFound(LaminaError):
    code = "engine/build-not-found"
    default_exit = 66


class NoSuchStep(LaminaError):
    code = "engine/no-such-step"
    default_exit = 2


class Change(msgspec.Struct, frozen=True):
    """One step of two builds; None where a build does not have it."""

    before: Step | None
    after: Step | None


def find_build(store: LocalStore, text: str | None) -> BuildLog:
    """None or `last`: the newest; `previous`: the one before; else an image (its last build) or the beginning of a build's id."""
    builds = store.builds.last()
    if text in (None, "last", "previous"):
        index = 1 if text == "previous" else 0
        if len(builds) <= index:
            raise BuildNotFound("there is no earlier build in this store", hint="lamina build makes one")
        return builds[index]
    assert text is not None
    found = store.builds.get(text)
    if found is not None:
        return found
    image = find_image(store, text)
    log = store.builds.of_image(image.id)
    if log is None:
        raise BuildNotFound(f"no recorded build made {text} (the last 100 are kept)")
    return log


def steps_of(log: BuildLog) -> list[Step]:
    steps: list[Step] = msgspec.json.decode(log.steps)
    return steps


def select(steps: list[Step], selector: str) -> list[Step]:
    """The selectors of --refresh and `cache forget` (a stage, `STAGE:N` as in "[stage N/M]", the beginning of an instruction), or `line N`.

    A number alone is a stage, never a line. NoSuchStep when nothing fits.
    """
    found = [step for step in steps if matches(selector, _step_of(step))]
    if not found and (line := _LINE.fullmatch(selector.strip())):
        found = [step for step in steps if step["line"] == int(line[1])]
    if not found:
        stages = sorted({step["stage_name"] for step in steps if step["stage_name"]})
        near = nearest(selector.lower(), stages)
        raise NoSuchStep(
            f"{selector!r} selects no step of this build",
            hint=f"did you mean {near!r}?" if near else "give STAGE, STAGE:N, the beginning of an instruction, or 'line N'",
        )
    return found


def find_steps(store: LocalStore, build: str | None, step: str | None) -> tuple[BuildLog, list[Step]]:
    """What `lamina why [BUILD] [STEP]` means. A STEP alone is one of the last build, where no image and no build has that name."""
    try:
        log = find_build(store, build)
    except LaminaError:
        if build is None or step is not None or not (builds := store.builds.last()):
            raise
        try:
            return builds[0], select(steps_of(builds[0]), build)
        except NoSuchStep:
            pass
        raise
    steps = steps_of(log)
    return log, steps if step is None else select(steps, step)


def place_of(stage: int, stage_name: str, index: int, *, own: bool) -> str:
    """How a step is shown: what `select` and --refresh understand. `own`: it has a number of its own in the stage (0: it was not counted)."""
    return f"{stage_name or stage}:{index}" if own and index else str(stage_name or stage)


def _step_of(step: Step) -> graph.Step:
    return graph.Step(step["stage"], step["stage_name"], step.get("index", 0), 0, step["line"], step["text"], step["trigger"])


def compare(before: list[Step], after: list[Step]) -> list[Change]:
    """Steps that differ in what they gave (state), in what went in (key) or in being there at all; matched by stage and text."""
    old = {(s["stage"], s["text"], s["trigger"]): s for s in before}
    new = {(s["stage"], s["text"], s["trigger"]): s for s in after}
    changes = [Change(s, new.get(k)) for k, s in old.items() if k not in new or _differs(s, new[k])]
    return changes + [Change(None, s) for k, s in new.items() if k not in old]


def _differs(one: Step, other: Step) -> bool:
    return (one.get("key"), one.get("state")) != (other.get("key"), other.get("state"))
