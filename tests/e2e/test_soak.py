"""A short soak: `make soak` is the long one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.testing import bases, soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


def test_nothing_is_left_of_storms_cut_connections_crooked_requests_and_slow_readers(tmp_path: Path) -> None:
    said: list[str] = []
    seconds, commands = float(os.environ.get("LAMINA_SOAK_SECONDS") or 0), int(os.environ.get("LAMINA_SOAK_COMMANDS") or 100)
    assert soak.soak(tmp_path, seconds, commands, said.append) == [], "\n".join(said)


def test_growth_is_told() -> None:
    before = soak.Counts(10, 2, 20, 40.0)
    assert soak.grown(before, soak.Counts(12, 2, 60, 60.0)) == []
    assert soak.grown(before, soak.Counts(13, 3, 20, 100.0)) == ["descriptors: 10 -> 13", "processes: 2 -> 3", "memory: 40.0 -> 100.0"]
