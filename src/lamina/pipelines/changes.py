"""Conditions on changed files: whether a step or stage runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from lamina.pipelines import globs
from lamina.pipelines.expressions import ExpressionError, evaluate, names
from lamina.pipelines.model import Condition

Verdict = Literal["run", "skip", "later"]


class Decision(msgspec.Struct, frozen=True):
    """`later`: the expression speaks of output variables of steps that have not run yet, or gives no boolean without a variable that is not set. `reason` in words."""

    verdict: Verdict
    reason: str


def decide(
    condition: Condition | None, changed: tuple[str, ...] | None, variables: Mapping[str, str], coming: frozenset[str] = frozenset()
) -> Decision:
    """`changed` are paths relative to the repository's root, None when nobody could tell (then paths do not hold a step back). `coming` are output
    variables that earlier steps may still set. Raises ExpressionError where every variable is set and the result is no boolean."""
    if condition is None:
        return Decision("run", "")
    first = _changes(condition, changed)
    if first.verdict == "skip" or condition.state is None:
        return first
    unset = [name for name in names(condition.state.value) if name in coming]
    if unset:
        return Decision("later", f"condition {condition.state.value!r} waits for {', '.join(unset)}")
    try:
        holds = evaluate(condition.state.value, variables)
    except ExpressionError:
        missing = [name for name in names(condition.state.value) if name not in variables]
        if not missing:
            raise
        return Decision("later", f"condition {condition.state.value!r} needs {', '.join(missing)}")
    return Decision("run" if holds else "skip", f"condition {condition.state.value!r} is {'true' if holds else 'false'}")


def _changes(condition: Condition, changed: tuple[str, ...] | None) -> Decision:
    """includePaths: any changed file matches. excludePaths: not every changed file matches."""
    if not condition.include and not condition.exclude:
        return Decision("run", "")
    if changed is None:
        return Decision("run", "the changed files are not known")
    if condition.include:
        patterns = [globs.compile_glob(text.value) for text in condition.include]
        for path in changed:
            found = next((pattern.text for pattern in patterns if pattern.matches(path)), None)
            if found is not None:
                return Decision("run", f"{path} changed, which {found} includes")
        return Decision("skip", f"none of {len(changed)} changed files matches includePaths")
    patterns = [globs.compile_glob(text.value) for text in condition.exclude]
    for path in changed:
        if not any(pattern.matches(path) for pattern in patterns):
            return Decision("run", f"{path} changed, which excludePaths does not name")
    if not changed:
        return Decision("run", "no file changed")
    return Decision("skip", f"all {len(changed)} changed files match excludePaths")
