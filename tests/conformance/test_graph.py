"""Graphs and configs that BuildKit made of real Dockerfiles: ours are the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.testing.conformance import NoData, run

DATA = Path(os.environ.get("LAMINA_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")


@pytest.mark.skipif(not (DATA / "dockerfiles" / "graph.jsonl").exists(), reason="the recorded graphs are not here (LAMINA_CONFORMANCE)")
def test_recorded_graphs() -> None:
    try:
        outcomes = list(run("graph", DATA / "dockerfiles"))
    except NoData as error:
        pytest.skip(str(error))
    failed = [f"{o.name}: {o.differences[0]}" for o in outcomes if not o.passed]
    assert not failed, "\n".join(failed[:20])
    assert len(outcomes) > 800
