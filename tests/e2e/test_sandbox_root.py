"""The sandbox's suite on the rung `root`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.sandbox import rungs
from lamina.testing import bases
from lamina.testing.conformance.sandbox import PROBES, Bench

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group("sandbox"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the rung `root` needs uid 0"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    sandbox = rungs.make("root")
    problems = sandbox.probe()
    if problems:
        pytest.skip(f"the rung `root` does not work here: {'; '.join(problems)}")
    yield Bench(sandbox, tmp_path_factory.mktemp("sandbox"))
    sandbox.close()


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_probe(probe: Callable[[Bench], None], bench: Bench) -> None:
    probe(bench)


def test_the_rung_none_refuses_a_run_and_says_what_was_tried(tmp_path: Path) -> None:
    from lamina.sandbox.protocols import Overlay, SandboxSpec, SandboxUnavailable
    from lamina.solver.cancel import CancelToken

    sandbox = rungs.make("none", ("user namespace: Operation not permitted",))
    spec = SandboxSpec(Overlay((), tmp_path, tmp_path), ("true",), ())
    with pytest.raises(SandboxUnavailable, match="Operation not permitted"):
        sandbox.run(spec, lambda stream, data: None, CancelToken())
