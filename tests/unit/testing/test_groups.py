"""Tests of one xdist_group run one after the other, on one worker: what they start is heavy, and some of it is the machine's."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_groups_are_kept(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("dist", "no") == "no" and not hasattr(request.config, "workerinput"):
        pytest.skip("one process: there is nothing to keep apart")
    if not request.config.getoption("loadgroup", False):
        pytest.skip("another distribution was asked for")
    assert request.node.nodeid.endswith("@groups"), "xdist does not see the mark: is this pytest newer than what pyproject.toml allows?"
