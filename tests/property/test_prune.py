"""Whatever is in the cache: what is held stays, the cap holds, and nothing goes without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lamina.store.policy import PrunePolicy, PruneRow, plan_prune

ROWS = st.lists(
    st.builds(
        PruneRow,
        name=st.text(min_size=1, max_size=3),
        size=st.integers(0, 1000),
        created=st.floats(0, 1e6),
        last_used=st.floats(0, 1e6),
        seconds=st.floats(0, 1e4),
        held=st.sampled_from(["", "", "image app:1"]),
    ),
    max_size=20,
    unique_by=lambda row: row.name,
)


@given(ROWS, st.integers(0, 20000))
def test_the_cap(rows: list[PruneRow], cap: int) -> None:
    decisions = plan_prune(rows, PrunePolicy(1e6, max_bytes=cap))
    assert {decision.row.name for decision in decisions} == {row.name for row in rows}
    kept = [decision.row for decision in decisions if not decision.remove]
    gone = [decision.row for decision in decisions if decision.remove]
    assert not any(row.held for row in gone)
    total = sum(row.size for row in kept)
    assert total <= cap or all(row.held for row in kept)
    # Without the last one that went the cap would not have held.
    assert not gone or total + gone[-1].size > cap
    assert all(decision.reason for decision in decisions)


@given(ROWS, st.floats(0, 1e6))
def test_age(rows: list[PruneRow], age: float) -> None:
    for decision in plan_prune(rows, PrunePolicy(1e6, max_age=age)):
        assert decision.remove == (not decision.row.held and 1e6 - decision.row.last_used > age)
