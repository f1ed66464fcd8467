from __future__ import annotations

from lamina.store.policy import PrunePolicy, PruneRow, plan_prune, worth

DAY = 86400.0


def removed(rows: list[PruneRow], policy: PrunePolicy) -> set[str]:
    return {decision.row.name for decision in plan_prune(rows, policy) if decision.remove}


def row(name: str, size: int = 100, used: float = 0.0, seconds: float = 1.0, held: str = "") -> PruneRow:
    return PruneRow(name, size, 0.0, used, seconds, held)


def test_by_age() -> None:
    rows = [row("old", used=0), row("new", used=9 * DAY), row("edge", used=3 * DAY)]
    decisions = {decision.row.name: decision for decision in plan_prune(rows, PrunePolicy(10 * DAY, max_age=7 * DAY))}
    assert {name for name, decision in decisions.items() if decision.remove} == {"old"}
    assert decisions["old"].reason == "not used for 10 days"
    assert decisions["new"].reason == "used 24 hours ago"


def test_held_rows_stay_whatever_is_asked() -> None:
    rows = [row("held", held="image app:1"), row("free")]
    for policy in (PrunePolicy(99 * DAY, max_age=0), PrunePolicy(0, max_bytes=0), PrunePolicy(0, everything=True)):
        assert removed(rows, policy) == {"free"}
    assert plan_prune(rows[:1], PrunePolicy(0, everything=True))[0].reason == "used by image app:1"


def test_the_cap_takes_the_least_worth_first_and_no_more_than_needed() -> None:
    rows = [row("slow", seconds=100), row("quick", seconds=1), row("big", size=800, seconds=2)]
    assert removed(rows, PrunePolicy(DAY, max_bytes=1000)) == set()
    assert removed(rows, PrunePolicy(DAY, max_bytes=999)) == {"big"}
    assert removed(rows, PrunePolicy(DAY, max_bytes=199)) == {"big", "quick"}
    assert removed(rows, PrunePolicy(DAY, max_bytes=0)) == {"big", "quick", "slow"}


def test_what_age_removes_counts_for_the_cap() -> None:
    rows = [row("old"), row("new", used=10 * DAY)]
    assert removed(rows, PrunePolicy(10 * DAY, max_age=DAY, max_bytes=100)) == {"old"}


def test_worth_falls_with_size_and_disuse_and_never_fails() -> None:
    assert worth(row("a", seconds=2), DAY) > worth(row("a", seconds=1), DAY)
    assert worth(row("a", size=1), DAY) > worth(row("a", size=2), DAY)
    assert worth(row("a", used=DAY), DAY) > worth(row("a", used=0), DAY)
    assert worth(row("a", size=0, used=1e9), 0.0) > 0
    assert worth(row("a"), 1e12) >= 0


def test_nothing_to_do() -> None:
    assert plan_prune([], PrunePolicy(0, everything=True)) == []
    assert removed([row("a")], PrunePolicy(99 * DAY)) == set()
