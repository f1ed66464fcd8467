from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.testing.conformance import run

DATA = Path(os.environ.get("LAMINA_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))


@pytest.mark.skipif(not (DATA / "pipelines").is_dir(), reason=f"no conformance data at {DATA}; set LAMINA_CONFORMANCE")
def test_all_recorded_files() -> None:
    outcomes = list(run("pipelines", DATA / "pipelines"))
    assert outcomes
    assert {outcome.name: outcome.differences for outcome in outcomes if not outcome.passed} == {}
