"""What a user asked about freshness: selectors, flags, and the comments before an instruction, matched with steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lamina.diagnostics.errors import LaminaError
from lamina.graph.vertex import Step


class BadDuration(LaminaError):
    code = "cache/bad-duration"
    default_exit = 2


_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhdw]?)+")
_PIECE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw]?)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DIRECTIVE = re.compile(r"\s*lamina:\s*(?P<rest>.*)", re.DOTALL)
_FORCIBLE = ("RUN", "COPY", "ADD")


def parse_duration(text: str) -> float:
    """`90`, `90s`, `12h`, `1d12h`, `2w` as seconds; raises BadDuration."""
    if not _DURATION.fullmatch(text):
        raise BadDuration(f"{text!r} is not a duration", hint="for example 12h, 90m or 1d")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PIECE.findall(text))


@dataclass(frozen=True, slots=True)
class Directives:
    """Of the comments right before an instruction: `# lamina: max-age=1d`, `# lamina: watch=URL` (several may stand on one line).

    `problems`: what was not understood; the directive is left out then.
    """

    max_age: float | None = None  # seconds, the smallest that is given
    watch: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def directives(comments: Iterable[str]) -> Directives:
    """`comments` without their '#'. A comment that does not begin with `lamina:` is just a comment."""
    ages: list[float] = []
    watch: list[str] = []
    problems: list[str] = []
    for comment in comments:
        found = _DIRECTIVE.match(comment)
        for word in found["rest"].split() if found else ():
            name, _, given = word.partition("=")
            if name == "max-age":
                try:
                    ages.append(parse_duration(given))
                except BadDuration as error:
                    problems.append(f"# lamina: max-age: {error.message}")
            elif name == "watch" and given.startswith(("http://", "https://")):
                watch.append(given)
            elif name == "watch":
                problems.append(f"# lamina: watch: {given!r} is not an http or https URL")
            else:
                problems.append(f"# lamina: {name!r} is not known (known are max-age and watch)")
    return Directives(min(ages) if ages else None, tuple(dict.fromkeys(watch)), tuple(problems))


def matches(selector: str, step: Step) -> bool:
    """A stage by name (any case) or number, `STAGE:N` for its n-th step, or the beginning of the instruction's text."""
    wanted = " ".join(selector.split())
    stage, colon, number = wanted.rpartition(":")
    if colon and number.isdecimal() and _is_stage(stage, step):
        return step.index == int(number)
    return bool(wanted) and (_is_stage(wanted, step) or " ".join(step.text.split()).startswith(wanted))


def _is_stage(name: str, step: Step) -> bool:
    return step.stage >= 0 and (name == str(step.stage) or (bool(step.stage_name) and name.lower() == step.stage_name.lower()))


@dataclass(frozen=True, slots=True)
class Asked:
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

    def limit(self, step: Step, comments: Directives) -> tuple[float, str] | None:
        """The smallest max-age that holds for the step, in seconds, and who says so."""
        limits = [(seconds, f"--max-age {selector}") for selector, seconds in self.max_age if matches(selector, step)]
        if comments.max_age is not None:
            limits.append((comments.max_age, "# lamina: max-age"))
        return min(limits, default=None)

    def unused(self, steps: Sequence[Step]) -> tuple[str, ...]:
        """Selectors that match no step: most likely misspelt."""
        selectors = [*self.refresh, *(selector for selector, _ in self.max_age)]
        stages = [name for name in self.no_cache_filter if not any(_is_stage(name, step) for step in steps)]
        return (*stages, *(selector for selector in selectors if not any(matches(selector, step) for step in steps)))
