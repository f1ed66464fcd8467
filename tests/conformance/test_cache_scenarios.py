"""The recorded cache scenarios, really built: verdicts as recorded, a reason for every step, and reasons that name the change."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from lamina.testing.conformance import cache

FOLDER = Path(os.environ.get("LAMINA_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance") / "cache"

pytestmark = [
    pytest.mark.xdist_group("cache scenarios"),  # all are built once for the file
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not (FOLDER / "scenarios.json").exists(), reason="the recorded scenarios are not here (LAMINA_CONFORMANCE)"),
    pytest.mark.skipif(cache.why_not() is not None, reason=cache.why_not() or ""),
]


@pytest.fixture(scope="module")
def played() -> list[cache.Played]:
    """Each scenario built with LAMINA_CUT_OFF=off and with the cut-off."""
    return cache.play_all(FOLDER)


def failures(played: list[cache.Played], cut_off: cache.CutOff) -> str:
    expected = cache.recorded(FOLDER)
    mine = [p for p in played if p.cut_off == cut_off]
    assert {p.scenario for p in mine} == expected.keys()
    return "\n".join(f"{p.scenario}: {d}" for p in mine for d in cache.verdict_differences(p, expected[p.scenario]))


def test_without_cut_off_as_recorded(played: list[cache.Played]) -> None:
    assert not failures(played, "off")


def test_with_cut_off_only_cut_off_hits_differ(played: list[cache.Played]) -> None:
    assert not failures(played, "on")


def test_the_cut_off_saves_steps(played: list[cache.Played]) -> None:
    """Otherwise the test before this one would say nothing about it."""
    hits = {
        cut_off: Counter(
            row.text.split()[0] for p in played if p.cut_off == cut_off for b in p.builds for row in b.told if row.code == "cut-off"
        )
        for cut_off in ("off", "on")
    }
    assert hits["on"].total() > hits["off"].total() + 15


def test_each_miss_names_what_the_scenario_changed(played: list[cache.Played]) -> None:
    """The path, argument or instruction. And every step of every build has a reason with a code of the list."""
    assert not "\n".join(f"{p.scenario} ({p.cut_off}): {d}" for p in played for d in cache.reason_differences(p))
    assert sum(1 for p in played for build in p.builds if build.change for row in build.told if row.verdict == "ran") > 300
