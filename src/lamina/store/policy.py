"""What to prune, as a pure function: rows and a policy in, decisions with reasons out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class PruneRow(msgspec.Struct, frozen=True):
    """A layer with its blob, or something else that may go (store/idle.py).

    `seconds` = what it takes to make again what needs it; `held` = why it must stay, in words; `label` = what it is to people, if not its name.
    """

    name: str
    size: int  # bytes
    created: float  # seconds since the epoch
    last_used: float
    seconds: float = 0.0
    held: str = ""  # "image app:1", "a running build"
    label: str = ""


class PrunePolicy(msgspec.Struct, frozen=True):
    """`max_age` in seconds since the last use; `max_bytes` for everything that is not held and what is held together. `project`: only what its
    records alone need; the cap is its then."""

    now: float
    max_age: float | None = None
    max_bytes: int | None = None
    everything: bool = False
    project: str | None = None


class Decision(msgspec.Struct, frozen=True):
    row: PruneRow
    remove: bool
    reason: str


def worth(row: PruneRow, now: float) -> float:
    """Seconds to rebuild x recency, per byte. Recency halves with each day of disuse."""
    days = max(0.0, now - row.last_used) / 86400
    return (row.seconds + 0.001) * math.pow(0.5, min(days, 1000.0)) / max(row.size, 1)


def plan_prune(rows: Sequence[PruneRow], policy: PrunePolicy) -> list[Decision]:
    """One decision per row, least worth first. Held rows always stay, but their bytes count against `max_bytes`."""
    total = sum(row.size for row in rows)
    decisions: list[Decision] = []
    for row in sorted(rows, key=lambda row: (worth(row, policy.now), row.name)):
        age = policy.now - row.last_used
        remove, reason = True, ""
        if row.held:
            remove, reason = False, f"used by {row.held}"
        elif policy.everything:
            reason = "all of the cache is to go"
        elif policy.max_age is not None and age > policy.max_age:
            reason = f"not used for {_duration(age)}"
        else:
            remove, reason = False, f"used {_duration(age)} ago"
        if remove:
            total -= row.size
        decisions.append(Decision(row, remove, reason))
    if policy.max_bytes is None:
        return decisions
    for number, decision in enumerate(decisions):
        if total <= policy.max_bytes:
            break
        if not decision.remove and not decision.row.held:
            total -= decision.row.size
            unused = _duration(policy.now - decision.row.last_used)
            reason = f"over the limit; {unused} unused, {decision.row.seconds:.1f} s to make again"
            decisions[number] = Decision(decision.row, True, reason)
    return decisions


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"
