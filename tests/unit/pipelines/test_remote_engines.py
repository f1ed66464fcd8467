"""--engine read without asking anybody; what steps need of workers."""

from __future__ import annotations

import pytest

from lamina.pipelines.choose import Start
from lamina.pipelines.errors import NotHere
from lamina.pipelines.load import load
from lamina.pipelines.plan import PlannedStep, Request, plan
from lamina.pipelines.remote.cluster import Needs
from lamina.pipelines.remote.engines import BadEngine, ProcessesSpec, check_engine, parse_processes
from lamina.pipelines.remote.fitting import must_fit, needs_of, priority_of
from lamina.pipelines.run.runner import every_step


@pytest.mark.parametrize(
    ("text", "kind"), [("dask://a:1", "dask"), ("ray://a", "ray"), ("processes://3", "processes"), ("processes://3,cpus=0.5", "processes")]
)
def test_kinds(text: str, kind: str) -> None:
    assert check_engine(text) == kind


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("dsk://a:1", "did you mean dask"),
        ("dask:a", "clusters are"),
        ("", "clusters are"),
        ("dask://", "did you mean dask"),
        ("processes://", "from 1"),
    ],
)
def test_what_is_no_cluster(text: str, hint: str) -> None:
    with pytest.raises(BadEngine) as caught:
        check_engine(text)
    assert hint in (caught.value.hint or "")


def test_options_of_processes() -> None:
    assert parse_processes("4") == ProcessesSpec(4)
    assert parse_processes("2,memory=8192,cpus=1.5,label=gpu,label=ssd") == ProcessesSpec(2, 8192, 1.5, frozenset({"gpu", "ssd"}))
    for wrong in ("x", "-1", "257", "1,memory=0", "1,cpus=0", "1,label=", "1,speed=9", "1,"):
        with pytest.raises(BadEngine):
            parse_processes(wrong)


def steps(text: str) -> list[PlannedStep]:
    return every_step(plan(load(text, "f"), Request(start=Start("branch", "main"))))


FILE = """
pipelines:
  default:
    - step: {script: [a]}
    - step: {script: [a], size: 4x, services: [docker], runs-on: [self.hosted, linux, gpu]}
    - step: {script: [a], runtime: {self-hosted: {cpu: 3, memory: 2048}}}
    - final: {script: [a]}
"""


def test_needs_come_from_size_runtime_and_labels() -> None:
    found = steps(FILE)
    assert [needs_of(step) for step in found] == [Needs(4096, 1), Needs(16384, 4, "gpu"), Needs(2048, 3), Needs(4096, 1)]
    order = sorted(found, key=priority_of, reverse=True)
    assert [step.number for step in order] == [4, 1, 2, 3]


def test_every_step_that_fits_nowhere_is_named_before_anything_starts() -> None:
    def fits(needs: Needs) -> str:
        return "" if needs.memory <= 4096 else f"it needs {needs.memory} MB"

    with pytest.raises(NotHere) as caught:
        must_fit(steps(FILE), fits, "dask://a:1")
    assert [item.message for item in caught.value.diagnostics] == [
        "pipelines.default[1].step: no worker of dask://a:1 can run it: it needs 16384 MB"
    ]
    two = FILE.replace("linux, gpu", "ssd, gpu")
    with pytest.raises(NotHere, match=r"2 labels of its own \(gpu, ssd\)"):
        must_fit(steps(two), lambda needs: "", "dask://a:1")
    must_fit(steps(FILE), lambda needs: "", "dask://a:1")
