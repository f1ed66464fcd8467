"""The pages about pipelines, over runs that somebody gives."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer
from lamina.server.ui.runs import CacheSeen, Log, Run, RunStep
from lamina.testing.engineapi import call, daemon_at

HOSTILE = "<script>alert(1)</script>\"'&\x00\udc80"
STEPS = (
    RunStep(1, "Prepare", "passed", 0, image="box:1", started=100.0, seconds=2.0, caches=(CacheSeen("node", "hit", "3 files", "saved: x"),)),
    RunStep(2, HOSTILE, "failed", 1, HOSTILE, HOSTILE, 102.0, 3.0, HOSTILE, (HOSTILE,), (CacheSeen(HOSTILE, "miss", HOSTILE),), HOSTILE, ((HOSTILE, HOSTILE),)),
    RunStep(3, "beside", "running", 1, started=102.5),
    RunStep(4, "later", "waiting", 2),
)  # fmt: skip
RUN = Run("0123456789abcdef", "shop", 7, "branches main", "running", 100.0, 0.0, "c" * 40, "main", HOSTILE, 6, STEPS)


class Given:
    """As server.ui.runs.Runs."""

    def last(self) -> Sequence[Run]:
        return (RUN,)

    def run(self, project: str, number: int) -> Run | None:
        return RUN if (project, number) == (RUN.project, RUN.number) else None

    def logs(self, project: str, number: int, step: int) -> Sequence[Log]:
        return (Log("Log", f"step {step}\n{HOSTILE}", 12), Log("Service db", "")) if step < 4 else ()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_at(tmp_path / "root", place="unix:///x.sock") as daemon:
        yield daemon


def get(daemon: Daemon, target: str) -> Answer:
    reply = call(daemon, "GET", target, headers={"host": "localhost"})
    assert isinstance(reply, Answer)
    return reply


def test_without_runs_the_page_says_how_to_get_one(daemon: Daemon) -> None:
    assert "lamina pipeline run" in get(daemon, "/ui/pipelines").body.decode()
    assert get(daemon, "/ui/pipelines/0123456789abcdef/7").status == 404


def test_the_list_leads_to_a_run_and_its_steps(daemon: Daemon) -> None:
    daemon.runs = Given()
    listed = get(daemon, "/ui/pipelines").body.decode()
    assert 'href="/ui/pipelines/0123456789abcdef/7"' in listed
    assert "1 passed, 1 failed, 1 running, 1 waiting" in listed
    body = get(daemon, "/ui/pipelines/0123456789abcdef/7").body.decode()
    for wanted in ("3 files", "saved: x", "what did not pass in run 6", 'href="/ui/pipelines/0123456789abcdef/7/3"', "data-again"):
        assert wanted in body
    step = get(daemon, "/ui/pipelines/0123456789abcdef/7/3").body.decode()
    for wanted in ("step 3", "12 bytes before this", "Service db", "nothing yet", "data-again"):
        assert wanted in step
    assert "It has printed nothing." in get(daemon, "/ui/pipelines/0123456789abcdef/7/4").body.decode()


def test_drawings_are_well_formed_and_hostile_text_is_text(daemon: Daemon) -> None:
    daemon.runs = Given()
    for path in ("/ui/pipelines", "/ui/pipelines/0123456789abcdef/7", "/ui/pipelines/0123456789abcdef/7/2"):
        body = get(daemon, path).body.decode()
        assert "<script>alert" not in body
        for drawn in re.findall(r"<svg.*?</svg>", body, re.DOTALL):
            ET.fromstring(drawn)
    body = get(daemon, "/ui/pipelines/0123456789abcdef/7").body.decode()
    assert body.count('class="node ') == 4
    assert body.count('class="bar ') == 3


@pytest.mark.parametrize(
    "path", ["/ui/pipelines/x/7", "/ui/pipelines/0123456789abcdef/8", "/ui/pipelines/0123456789abcdef/seven", "/ui/pipelines/0123456789abcdef/7/9",
             "/ui/pipelines/0123456789abcdef/9999999999", "/ui/pipelines/..%2f..%2fetc/7/1"],
)  # fmt: skip
def test_runs_that_are_not_there(daemon: Daemon, path: str) -> None:
    daemon.runs = Given()
    assert get(daemon, path).status == 404


def test_a_run_that_has_not_begun_anything(daemon: Daemon) -> None:
    class Fresh(Given):
        def run(self, project: str, number: int) -> Run | None:
            return Run(project, "shop", number, "default", "killed", 100.0, 0.0)

    daemon.runs = Fresh()
    assert "No step has begun." in get(daemon, "/ui/pipelines/0123456789abcdef/1").body.decode()
