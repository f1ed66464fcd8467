"""A run's spans, out of its record."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from lamina.cli.pipelinetrace import RunTrace
from lamina.engine.tracing.asked import Asked
from lamina.engine.tracing.otlp import Span
from lamina.engine.tracing.tracer import Tracer
from lamina.pipelines.caches.keeping import CacheUse
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.history import RunRecord

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STEPS = (
    StepResult(1, "compile", "passed", seconds=4.0, caches=(CacheUse("pip", "hit", ""), CacheUse("npm", "miss", ""))),
    StepResult(2, "test\x1b[31m", "failed", 7, seconds=500.0, outputs=(("TOKEN", "hidden"),), reason="hidden"),
    StepResult(3, "late", "not-run"),
)
RECORD = RunRecord(5, "branches main", "c0ffee", 100.0, STEPS, False, ended=120.0, branch="main", begun={1: 101.0, 2: 106.0})


@pytest.fixture
def trace() -> RunTrace:
    return RunTrace(Tracer(Asked("http://x/v1/traces", "http/json", trace=TRACE, parent=PARENT, state="a=b"), pytest.fail))


def attributes(span: Span) -> dict[str, Any]:
    return dict(span.attributes)


def test_a_run_and_the_steps_that_began(trace: RunTrace) -> None:
    whole, first, second = trace.spans(RECORD)
    assert {span.trace for span in (whole, first, second)} == {TRACE}
    assert (whole.name, whole.parent, whole.state, whole.error) == ("pipeline", PARENT, "a=b", "failed")
    assert attributes(whole)["lamina.pipeline.run"] == 5
    assert (whole.start, whole.end) == (100 * 10**9, 120 * 10**9)
    assert [span.parent for span in (first, second)] == [whole.id] * 2
    assert (first.start, first.end, first.error) == (101 * 10**9, 105 * 10**9, None)
    assert (attributes(first)["lamina.step.caches"], attributes(first)["lamina.step.caches.hit"]) == (2, 1)
    assert (second.end, second.error, attributes(second)["process.exit.code"]) == (whole.end, "failed", 7)
    assert "hidden" not in repr((whole, first, second))
    assert "\x1b" not in second.name


def test_a_steps_engine_is_told_its_span(trace: RunTrace) -> None:
    told = trace.parent_of("step2")
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", told)
    assert told.split("-")[2] == trace.spans(RECORD)[2].id
    assert trace.parent_of("step1") != told


@pytest.mark.parametrize(("changes", "outcome"), [({"passed": True}, "passed"), ({"interrupted": True}, "cancelled"), ({}, "failed")])
def test_how_a_run_ended(trace: RunTrace, changes: dict[str, bool], outcome: str) -> None:
    whole = trace.spans(msgspec.structs.replace(RECORD, **changes))[0]
    assert attributes(whole)["lamina.pipeline.outcome"] == outcome
    assert (whole.error is None) == (outcome == "passed")
