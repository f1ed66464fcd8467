"""The sandbox's suite on installed OCI runtimes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.sandbox import rungs
from lamina.testing import bases
from lamina.testing.conformance.sandbox import Bench, probes
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group("sandbox"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the runtimes are started by root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture(scope="module", params=rungs.RUNTIMES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    reason = rungs.why_not(request.param)
    if reason:
        pytest.skip(f"{reason} (make test-deps)")
    sandbox = rungs.make(request.param)
    problems = sandbox.probe()
    if problems:
        pytest.skip(f"{request.param} does not work here: {'; '.join(problems)}")
    yield Bench(sandbox, tmp_path_factory.mktemp(request.param))
    sandbox.close()


@pytest.mark.parametrize("probe", probes("runc"), ids=lambda probe: probe.__name__)
def test_probe(probe: Callable[[Bench], None], bench: Bench) -> None:
    if probe not in probes(bench.sandbox.name):
        pytest.skip(f"{bench.sandbox.name} does not promise it")
    probe(bench)


def test_a_build(bench: Bench, tmp_path: Path) -> None:
    """The store is that of the rung root: the steps of one are found by the other."""
    bases.busybox_tar(tmp_path / "base.tar")
    (tmp_path / "context").mkdir()
    project = Project(tmp_path / "context", tmp_path / "store", {"LAMINA_SANDBOX": bench.sandbox.name})
    project.dockerfile(
        "FROM base:1\nRUN echo 1 > /one && chown 3:4 /one\nRUN --mount=type=cache,target=/c cat /one > /c/x && rm -r /home\n"
    )
    assert project.run("import", str(tmp_path / "base.tar"), "base:1").returncode == 0
    assert project.build().verdicts() == "xx"
    project.environment["LAMINA_SANDBOX"] = "root"
    assert project.build().verdicts() == "CC"
