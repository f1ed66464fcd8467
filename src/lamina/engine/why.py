"""Earlier builds, as they were recorded: which one a user means, its steps, two of them compared."""

from __future__ import annotations

from typing import Any

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.images.finding import find_image
from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore

Step = dict[str, Any]
"""A step as in docs/reference/report.md."""


class BuildNotFound(LaminaError):
    code = "engine/build-not-found"
    default_exit = 66


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
    """A stage (name or number), `stage:LINE`, a line number or the beginning of a text. LaminaError when nothing fits."""
    wanted = " ".join(selector.split())
    stage, colon, line = wanted.rpartition(":")
    found = [
        step
        for step in steps
        if wanted in (step["stage_name"], str(step["line"]))
        or (colon and line == str(step["line"]) and stage in (step["stage_name"], str(step["stage"])))
        or " ".join(step["text"].split()).startswith(wanted)
    ]
    if not found:
        raise LaminaError(
            f"no step is called {selector!r}", hint="give a stage, a line number, or the beginning of an instruction", exit_code=2
        )
    return found


def compare(before: list[Step], after: list[Step]) -> list[Change]:
    """Steps that differ in what they gave (state), in what went in (key) or in being there at all; matched by stage and text."""
    old = {(s["stage"], s["text"], s["trigger"]): s for s in before}
    new = {(s["stage"], s["text"], s["trigger"]): s for s in after}
    changes = [Change(s, new.get(k)) for k, s in old.items() if k not in new or _differs(s, new[k])]
    return changes + [Change(None, s) for k, s in new.items() if k not in old]


def _differs(one: Step, other: Step) -> bool:
    return (one.get("key"), one.get("state")) != (other.get("key"), other.get("state"))
