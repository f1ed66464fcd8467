"""What the flags of a build ask about freshness, matched with steps: --no-cache, --no-cache-filter, --refresh, --max-age.

Comments before an instruction (`# lamina: max-age=1d`) are read by lamina.dockerfile and come as Freshness.max_age.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.graph.vertex import Step

_FORCIBLE = ("RUN", "COPY", "ADD")


def matches(selector: str, step: Step) -> bool:
    """A stage by name (any case) or number, `STAGE:N` for its n-th step, or the beginning of the instruction's text."""
    wanted = " ".join(selector.split())
    stage, colon, number = wanted.rpartition(":")
    if colon and number.isdecimal() and _is_stage(stage, step):
        return step.index == int(number)
    return bool(wanted) and (_is_stage(wanted, step) or " ".join(step.text.split()).startswith(wanted))


def _is_stage(name: str, step: Step) -> bool:
    return step.stage >= 0 and (name == str(step.stage) or (bool(step.stage_name) and name.lower() == step.stage_name.lower()))


class Asked(msgspec.Struct, frozen=True):
    """The flags of a build, selectors as text."""

    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    refresh: tuple[str, ...] = ()
    max_age: tuple[tuple[str, float], ...] = ()

    def forced_by(self, step: Step) -> str | None:
        """The flag that forces this step, for its reason. As in BuildKit --no-cache and its filter mean RUN, COPY and ADD."""
        if step.text.split(" ", 1)[0].upper() in _FORCIBLE:
            if self.no_cache:
                return "--no-cache"
            for name in self.no_cache_filter:
                if _is_stage(name, step):
                    return f"--no-cache-filter {name}"
        return next((f"--refresh {selector}" for selector in self.refresh if matches(selector, step)), None)

    def limit(self, step: Step, declared: float | None = None) -> tuple[float, str] | None:
        """The smallest max-age that holds for the step, in seconds, and who says so. `declared`: by a comment before it."""
        limits = [(seconds, f"--max-age {selector}") for selector, seconds in self.max_age if matches(selector, step)]
        if declared is not None:
            limits.append((declared, "# lamina: max-age"))
        return min(limits, default=None)

    def unused(self, steps: Sequence[Step]) -> tuple[str, ...]:
        """Selectors that match no step: most likely misspelt."""
        selectors = [*self.refresh, *(selector for selector, _ in self.max_age)]
        stages = [name for name in self.no_cache_filter if not any(_is_stage(name, step) for step in steps)]
        return (*stages, *(selector for selector in selectors if not any(matches(selector, step) for step in steps)))
