"""The coordinator over a cluster that is played: lost workers, nonsense, stops, artifacts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.choose import Start
from lamina.pipelines.load import load
from lamina.pipelines.plan import PlannedStep, Request, plan
from lamina.pipelines.remote.cluster import Job, JobStopped, Needs, WorkerLost
from lamina.pipelines.remote.coordinator import OnCluster, Terms
from lamina.pipelines.remote.frames import frame
from lamina.pipelines.remote.order import Done, Left, Order, encode, read_order
from lamina.pipelines.remote.parcels import Parcels
from lamina.pipelines.remote.working import FileSent
from lamina.pipelines.run.around import DueStep, StepResult
from lamina.pipelines.run.artifacts import ArtifactStore, Kept
from lamina.pipelines.run.checkout import Checkouts, Wanted
from lamina.pipelines.run.log import Terminal
from lamina.pipelines.run.runner import every_step
from lamina.pipelines.variables import Variable
from lamina.solver.cancel import CancelToken

Play = Callable[[Order, Callable[[bytes], None]], None]
FILE = """
pipelines:
  default:
    - step: {name: one, script: [a], artifacts: {upload: [{name: lib, paths: [a]}]}}
    - step: {name: two, script: [a], artifacts: {download: [lib]}}
    - step: {name: three, script: [a], artifacts: {download: false}}
"""


class _Running:
    def __init__(self, play: Play, order: Order, said: Callable[[bytes], None]) -> None:
        self._play, self._order, self._said = play, order, said
        self.cancelled = threading.Event()

    def result(self) -> bytes:
        self._play(self._order, self._said)
        if self.cancelled.is_set():
            raise JobStopped("stopped")
        return b""

    def cancel(self) -> None:
        self.cancelled.set()


class Played:
    """As Cluster: each job is the next of the plays."""

    def __init__(self, *plays: Play) -> None:
        self.plays = list(plays)
        self.orders: list[Order] = []

    def submit(self, job: Job, said: Callable[[bytes], None]) -> _Running:
        self.orders.append(read_order(job.payload))
        return _Running(self.plays.pop(0), self.orders[-1], said)

    def fits(self, needs: Needs) -> str:
        return ""

    def close(self) -> None:
        pass


class _Ordering(msgspec.Struct, frozen=True):
    pool: ThreadPoolExecutor
    terminal: Terminal
    now: Callable[[], float]


class World:
    def __init__(self, tmp_path: Path, *plays: Play) -> None:
        for name in ("run/logs", "scratch", "repo"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "repo" / "file").write_text("content")
        self.tmp = tmp_path
        self.shown: list[str] = []
        self.began = 0
        self.cluster = Played(*plays)
        self.artifacts = ArtifactStore(tmp_path / "run" / "artifacts")
        self.objects = DirectoryObjects(tmp_path / "shared")
        self.parcels = Parcels(self.objects, tmp_path / "scratch")
        self.token = CancelToken()
        terms = Terms("p", "t", "dir:x", {}, {}, lambda planned: ())
        ordering = _Ordering(ThreadPoolExecutor(1), Terminal(self.shown.append), time.time)
        checkouts = Checkouts(Wanted(tmp_path / "repo", repository=False), tmp_path / "scratch")
        self.steps = OnCluster(ordering, tmp_path / "run", self.cluster, self.parcels, checkouts, self.artifacts, terms)
        secret = Variable("KEY", "secret-word", secured=True)
        self.planned: list[PlannedStep] = every_step(plan(load(FILE, "f"), Request(start=Start("branch", "main"), variables=(secret,))))

    def run(self, number: int = 1, before: tuple[int, ...] = ()) -> StepResult:
        return self.steps.run(DueStep(self.planned[number - 1], (), before), self.token, self._begins)

    def log(self, number: int = 1) -> str:
        return (self.tmp / "run" / "logs" / f"{number}.log").read_text()

    def _begins(self) -> None:
        self.began += 1


def passes(order: Order, said: Callable[[bytes], None], *left: Left) -> None:
    said(frame("begin", b"") + frame("line", b"hello"))
    said(frame("result", encode(Done(StepResult(order.step.number, order.step.name, "passed", seconds=1.0, started=5.0), left))))


def is_lost(order: Order, said: Callable[[bytes], None]) -> None:
    said(frame("begin", b"") + frame("line", b"half") + frame("line", b"cut")[:6])
    raise WorkerLost("the machine is gone")


def test_a_step_passes_and_its_times_are_by_this_machine_s_clock(tmp_path: Path) -> None:
    world = World(tmp_path, passes)
    before = time.time()
    result = world.run()
    assert (result.status, result.seconds) == ("passed", 1.0)
    assert before <= result.started <= time.time()
    assert world.log() == "hello\n"
    assert world.began == 1
    clone = world.cluster.orders[0].clone
    assert clone is not None
    world.parcels.get(clone, tmp_path / "clone")
    assert (tmp_path / "clone" / "file").read_text() == "content"
    world.steps.close()
    assert not world.parcels.there(clone)


def test_a_lost_worker_s_step_runs_again(tmp_path: Path) -> None:
    world = World(tmp_path, is_lost, is_lost, passes)
    assert world.run().status == "passed"
    assert world.log().splitlines() == [
        "half",
        "the worker was lost in attempt 1 of 3: the machine is gone; what is above was lost with it, the step runs again from its beginning",
        "half",
        "the worker was lost in attempt 2 of 3: the machine is gone; what is above was lost with it, the step runs again from its beginning",
        "hello",
    ]
    assert world.began == 3
    assert len({order.clone for order in world.cluster.orders}) == 1  # packed once


def test_a_step_that_loses_all_its_workers_fails(tmp_path: Path) -> None:
    world = World(tmp_path, is_lost, lambda order, said: None, is_lost)
    result = world.run()
    assert result.status == "failed"
    assert result.reason == "the worker was lost in attempt 3 of 3: the machine is gone"
    assert "attempt 2 of 3: the job ended without an answer" in world.log()


def test_stopping_ends_the_job_and_starts_no_other_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)

    def stops(order: Order, said: Callable[[bytes], None]) -> None:
        world.token.cancel()

    def stops_and_dies(order: Order, said: Callable[[bytes], None]) -> None:
        world.token.cancel()
        raise WorkerLost("gone")

    for play in (stops, stops_and_dies):
        world.cluster.plays = [play]
        world.token = CancelToken()
        result = world.run()
        assert (result.status, result.exit_code, result.reason) == ("stopped", 130, "stopped")


def nonsense(order: Order, said: Callable[[bytes], None]) -> None:
    said(b"Traceback (most recent call last)")
    said(frame("line", b"never shown"))


def refuses(order: Order, said: Callable[[bytes], None]) -> None:
    said(frame("result", encode(Done(error="no such image secret-word", hint="pull it"))))


def other_form(order: Order, said: Callable[[bytes], None]) -> None:
    said(frame("result", b'{"format": 7, "lamina": "9"}'))


def breaks(order: Order, said: Callable[[bytes], None]) -> None:
    raise LaminaError("the scheduler has gone")


@pytest.mark.parametrize(
    ("play", "told"),
    [
        (nonsense, "printed what is no message of lamina"),
        (refuses, "no such image $KEY"),
        (other_form, "was made by lamina 9 in form 7"),
        (breaks, "the scheduler has gone"),
    ],
)
def test_what_cannot_go_on_is_a_failed_step_with_a_reason(tmp_path: Path, play: Play, told: str) -> None:
    world = World(tmp_path, play)
    result = world.run()
    assert result.status == "failed"
    assert told in result.reason
    assert f"error: {result.reason}" in world.log()
    assert "secret-word" not in world.log() + result.reason
    assert "never shown" not in world.log()


def test_artifacts_come_here_and_go_to_steps_that_want_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    (made / "a").write_text("1")

    def leaves(order: Order, said: Callable[[bytes], None]) -> None:
        passes(order, said, *(Left(Kept(name, 9, "one", shared, 1, 1, "x"), world.parcels.put(made)) for name, shared in
                              (("lib", True), ("own", False), ("other", True))))  # fmt: skip

    world.cluster.plays = [leaves, passes, passes]
    world.run(1)
    assert [(kept.name, kept.step) for kept, folder in world.artifacts.of([1])] == [("lib", 1), ("own", 1), ("other", 1)]
    assert all((folder / "a").read_text() == "1" for _, folder in world.artifacts.of([1]))
    world.run(2, (1,))
    world.run(3, (1,))
    assert [[one.kept.name for one in order.left] for order in world.cluster.orders] == [[], ["lib"], []]
    world.steps.close()
    assert not list(world.objects.list("blobs/"))


def test_artifacts_that_are_gone_fail_the_step(tmp_path: Path) -> None:
    world = World(tmp_path)

    def leaves(order: Order, said: Callable[[bytes], None]) -> None:
        parcel = world.parcels.put(tmp_path / "repo")
        world.parcels.drop([parcel])
        passes(order, said, Left(Kept("lib", 1, "one", True, 1, 1, "x"), parcel))

    world.cluster.plays = [leaves]
    result = world.run()
    assert result.status == "failed"
    assert "its artifacts did not arrive" in result.reason
    assert world.artifacts.of([1]) == []


def test_what_somebody_tidied_away_is_sent_again(tmp_path: Path) -> None:
    world = World(tmp_path, passes, passes)
    world.run()
    first = world.cluster.orders[0].clone
    assert first is not None
    world.parcels.drop([first])
    world.run()
    second = world.cluster.orders[1].clone
    assert second is not None
    assert world.parcels.there(second)


def test_logs_of_services_come_along_and_nothing_else(tmp_path: Path) -> None:
    def sends(order: Order, said: Callable[[bytes], None]) -> None:
        for name in ("1-db.log", "2-db.log", "1-../../x.log", "../1-x.log", "1.log", "1-a/b.log", "run.json"):
            said(frame("file", msgspec.msgpack.encode(FileSent(name, b"data"))))
        said(frame("file", b"\xc1"))
        passes(order, said)

    world = World(tmp_path, sends)
    world.run()
    assert sorted(path.name for path in (tmp_path / "run" / "logs").iterdir()) == ["1-db.log", "1.log"]
    assert world.log() == "hello\n"
