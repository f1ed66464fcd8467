"""The steps of a kept build, and what each stands on as far as the texts of the instructions tell."""

from __future__ import annotations

import re

import msgspec

from lamina.oci import typed
from lamina.store.builds import BuildLog

_FROM = re.compile(r"FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE)
_OTHERS = re.compile(r"(?:--from=|[,=]from=)([^\s,]+)")


class Why(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""
    details: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True):
    stage: int
    text: str
    word: str = msgspec.field(name="verdict")
    reason: Why = Why()
    stage_name: str = ""
    line: int = 0
    seconds: float = 0.0
    saved: float = msgspec.field(name="saved_seconds", default=0.0)
    failed: bool = False

    @property
    def verdict(self) -> str:
        return "failed" if self.failed else self.word

    @property
    def stage_label(self) -> str:
        return self.stage_name or str(self.stage)


def steps_of(log: BuildLog) -> list[Step]:
    """Empty where another version wrote them in another shape."""
    try:
        return typed.json(log.steps, type=list[Step])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def inputs(steps: list[Step]) -> list[list[int]]:
    """For each step the indexes of those it stands on: the one before in its stage, and the last step of each stage that it names."""
    last: dict[int, int] = {}
    names: dict[str, int] = {}
    found: list[list[int]] = []
    for position, step in enumerate(steps):
        before = [last[step.stage]] if step.stage in last else []
        named = _OTHERS.findall(step.text)
        base = _FROM.match(step.text)
        for name in [*named, *([base[1]] if base else [])]:
            stage = int(name) if name.isdecimal() and len(name) < 6 else names.get(name.lower())
            if stage is not None and stage != step.stage and stage in last:
                before.append(last[stage])
        found.append(list(dict.fromkeys(before)))
        last[step.stage] = position
        if step.stage_name:
            names[step.stage_name.lower()] = step.stage
    return found
