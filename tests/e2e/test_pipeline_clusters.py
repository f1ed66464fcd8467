"""Jobs on a real dask (ray) cluster: a scheduler and two workers, each in a network namespace of its own. Jobs here are small programs in place of lamina."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.pipelines.remote.cluster import ClusterError, Job, JobFailed, JobStopped, Needs, WorkerLost
from lamina.pipelines.remote.dispatch import Dispatched, Workers
from lamina.pipelines.remote.frames import Frames
from lamina.pipelines.remote.job import LEASE
from lamina.testing import clusters, machines
from lamina.testing.registryauth import authority, certificate

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(machines.why_not() is not None, reason=str(machines.why_not())),
    pytest.mark.xdist_group("clusters"),
]

PRELUDE = """
import os, struct, sys, time
def put(kind, body):
    sys.stdout.buffer.write(struct.pack(">cI", kind, len(body)) + body)
    sys.stdout.buffer.flush()
payload = sys.stdin.buffer.read()
"""
STAYS = """
if os.fork() == 0:  # a daemon: no parent, group or session of the job
    os.setsid()
    if os.fork():
        os._exit(0)
    put(b"L", b"%d" % os.getpid())
    time.sleep(1000)
os.wait()
put(b"L", b"%d" % os.getpid())
time.sleep(1000)
"""
TALKS = 'for each in range(100): put(b"L", b"%d" % each)\nput(b"R", b"got " + payload)'


class Bench:
    """A running cluster and what tests do with it."""

    def __init__(self, kind: type[clusters.Dask] | type[clusters.Ray], running: clusters.Running) -> None:
        self.kind = kind
        self.running = running
        self.workers: Workers
        if kind is clusters.Dask:
            from lamina.pipelines.remote.daskcluster import DaskWorkers

            self.workers = DaskWorkers(running.url)
        else:
            from lamina.pipelines.remote.raycluster import RayWorkers

            self.workers = RayWorkers(running.url)
        self.wait_for(2)

    def wait_for(self, number: int) -> None:
        """Until so many workers are there."""
        end = time.monotonic() + 120
        while len([machine for machine in self.workers.machines() if machine.cpus]) != number:
            assert time.monotonic() < end, "the workers do not come"
            time.sleep(0.05)

    def cluster(self, text: str, lease: float = LEASE) -> Dispatched:
        """Jobs on it are this program."""
        return Dispatched(Kept(self.workers), command=(sys.executable, "-I", "-S", "-c", PRELUDE + text), lease=lease)


class Kept:
    """Workers that stay when a Dispatched is closed."""

    def __init__(self, workers: Workers) -> None:
        self.machines = workers.machines
        self.seat = workers.seat

    def close(self) -> None:
        pass


RESOURCES = ("MEM=1000 CPU=2", "MEM=2000 CPU=2 gpu=1")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=pytest.mark.skipif(clusters.why_not(kind.module) is not None, reason=str(clusters.why_not(kind.module))))
        for kind in (clusters.Dask, clusters.Ray)
    ],
    ids=lambda kind: kind.module,
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    kind = request.param
    with machines.network(2) as net, kind.running(net, RESOURCES) as running, clusters.inside(net.hub):
        made = Bench(kind, running)
        try:
            yield made
        finally:
            made.workers.close()


class Said:
    """What a job printed, as lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self._frames = Frames()
        self._change = threading.Condition()

    def __call__(self, piece: bytes) -> None:
        with self._change:
            self.lines += [frame.body for frame in self._frames.feed(piece) if frame.kind == "line"]
            self._change.notify_all()

    def wait(self, number: int) -> list[bytes]:
        with self._change:
            assert self._change.wait_for(lambda: len(self.lines) >= number, 60), "the job prints nothing"
            return list(self.lines)


def job(name: str = "a", needs: Needs | None = None, priority: int = 0) -> Job:
    return Job(name, name.encode(), needs or Needs(100, 1), priority)


def watch(lines: list[bytes]) -> list[int]:
    return [os.pidfd_open(int(line)) for line in lines]


def all_end(descriptors: list[int]) -> None:
    for number in descriptors:
        assert select.select([number], [], [], 60)[0], "a process of the job is alive"
        os.close(number)


def test_a_job_runs_and_its_output_comes_in_order(bench: Bench) -> None:
    cluster = bench.cluster(TALKS)
    said = [Said() for _ in range(6)]
    running = [cluster.submit(job(f"job {number}"), each) for number, each in enumerate(said)]
    assert [each.result() for each in running] == [b"got job %d" % number for number in range(6)]
    assert [each.lines for each in said] == [[b"%d" % number for number in range(100)]] * 6
    cluster.close()


def test_output_is_live_and_cancel_kills_children(bench: Bench) -> None:
    cluster = bench.cluster(STAYS)
    said = Said()
    running = cluster.submit(job(), said)
    pids = watch(said.wait(2))  # both come while the job runs: it never ends by itself
    running.cancel()
    running.cancel()
    with pytest.raises(JobStopped):
        running.result()
    all_end(pids)
    cluster.close()


def test_close_kills_what_runs(bench: Bench) -> None:
    cluster = bench.cluster(STAYS)
    said = Said()
    running = cluster.submit(job(), said)
    pids = watch(said.wait(2))
    cluster.close()
    with pytest.raises(JobStopped):
        running.result()
    all_end(pids)


STAYS_OR_TALKS = f"""
if payload == b"stays":
{textwrap.indent(STAYS, "    ")}
{TALKS}
"""
ALL = Needs(100, 2, "gpu")  # of the one worker with the label


def test_the_highest_priority_begins_first(bench: Bench) -> None:
    cluster = bench.cluster(STAYS_OR_TALKS)
    said = Said()
    blocker = cluster.submit(job("stays", ALL), said)
    said.wait(2)
    order: list[int] = []

    def note(priority: int) -> Callable[[bytes], None]:
        return lambda piece: order.append(priority)

    running = [cluster.submit(job("talks", ALL, priority), note(priority)) for priority in (3, 1, 4, 2, 5)]
    blocker.cancel()
    assert [each.result() for each in running] == [b"got talks"] * 5
    assert list(dict.fromkeys(order)) == [5, 4, 3, 2, 1]
    cluster.close()


def test_two_who_ask_share_a_worker_without_overfilling_it(bench: Bench) -> None:
    one, other = bench.cluster(STAYS), bench.cluster(TALKS)
    said = Said()
    blocker = one.submit(job("stays", ALL), said)
    pids = watch(said.wait(2))
    still: list[bool] = []

    def note(piece: bytes) -> None:
        still.append(not select.select(pids[:1], [], [], 0)[0])

    running = other.submit(job("waits", ALL), note)
    stopped = other.submit(job("never", ALL), note)
    stopped.cancel()
    with pytest.raises(JobStopped):
        stopped.result()
    blocker.cancel()
    assert running.result() == b"got waits"
    assert not any(still)
    all_end(pids)
    one.close()
    other.close()


def test_needs_are_respected(bench: Bench) -> None:
    cluster = bench.cluster(TALKS)
    assert cluster.fits(Needs(1900, 2)) == ""
    assert cluster.fits(Needs(900, 2, "gpu")) == ""
    assert "2100 MB" in cluster.fits(Needs(2100, 1))
    assert "3 CPUs" in cluster.fits(Needs(1, 3))
    assert "label arm" in cluster.fits(Needs(1, 1, "arm"))
    cluster.close()


def test_a_job_that_fails_says_why(bench: Bench) -> None:
    cluster = bench.cluster("sys.exit('no room on the disk')")
    with pytest.raises(JobFailed, match=r"ended with code 1: no room on the disk"):
        cluster.submit(job(), Said()).result()
    cluster.close()


def test_a_job_that_somebody_kills_is_lost(bench: Bench) -> None:
    cluster = bench.cluster("os.kill(os.getpid(), 9)")
    with pytest.raises(WorkerLost):
        cluster.submit(job(), Said()).result()
    cluster.close()


ASKER = """
import sys
from lamina.pipelines.remote.cluster import Job, Needs
from lamina.pipelines.remote.dispatch import Dispatched
url, command, name = sys.argv[1:]
if url.startswith("dask"):
    from lamina.pipelines.remote.daskcluster import DaskWorkers as Workers
else:
    from lamina.pipelines.remote.raycluster import RayWorkers as Workers
cluster = Dispatched(Workers(url), command=(sys.executable, "-I", "-S", "-c", command), lease=8.0)
def said(piece):
    sys.stdout.buffer.write(piece); sys.stdout.buffer.flush()
cluster.submit(Job(name, b"", Needs(100, 1), 0), said).result()
"""


def test_who_asked_is_killed_and_the_job_ends(bench: Bench) -> None:
    words = [sys.executable, "-c", ASKER, bench.running.url, PRELUDE + STAYS, "left alone"]
    with subprocess.Popen([*bench.running.network.enter(bench.running.network.hub), *words], stdout=subprocess.PIPE) as asker:
        assert asker.stdout is not None
        said = Said()
        while len(said.lines) < 2:
            piece = os.read(asker.stdout.fileno(), 1000)
            assert piece, "the program that asks has ended"
            said(piece)
        pids = watch(said.lines)
        asker.kill()
    all_end(pids)


def test_a_worker_is_killed_in_mid_job(bench: Bench) -> None:
    """Last: the machine gets another worker."""
    cluster = bench.cluster(STAYS)
    said = Said()
    running = cluster.submit(job("doomed", Needs(100, 1, "gpu")), said)
    pids = watch(said.wait(2))
    bench.running.kill_worker(1)
    with pytest.raises(WorkerLost):
        running.result()
    all_end(pids)
    # Nobody runs it again by himself: it is not begun until it is asked for.
    bench.wait_for(1)
    again = cluster.submit(job("again", Needs(100, 1, "gpu")), fresh := Said())
    bench.running.workers[1] = bench.kind.worker(bench.running, 1, RESOURCES[1])
    pids = watch(fresh.wait(2))
    assert len(said.lines) == 2
    cluster.close()
    with pytest.raises(JobStopped):
        again.result()
    all_end(pids)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.skipif(clusters.why_not("distributed") is not None, reason=str(clusters.why_not("distributed")))
def test_dask_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    from lamina.pipelines.remote import daskcluster

    authority(tmp_path)
    made, key = certificate(tmp_path)
    tls = "distributed.comm.tls."
    files = {f"{tls}ca-file": str(tmp_path / "ca.crt"), f"{tls}client.cert": str(made), f"{tls}client.key": str(key)}
    with (
        machines.network(1) as net,
        clusters.Dask.running(net, RESOURCES[:1], tls=tmp_path) as running,
        clusters.inside(net.hub),
        dask.config.set(files),
    ):
        workers = daskcluster.DaskWorkers(running.url)
        cluster = Dispatched(workers, command=(sys.executable, "-I", "-S", "-c", PRELUDE + TALKS))
        assert cluster.submit(job(), Said()).result() == b"got a"
        cluster.close()
        with pytest.raises(ClusterError, match="no dask scheduler can be used"):
            daskcluster.DaskWorkers(running.url.replace("+tls", ""))
        monkeypatch.setattr(daskcluster, "CONNECT", 3.0)
        (tmp_path / "stranger").mkdir()
        authority(tmp_path / "stranger")
        made, key = certificate(tmp_path / "stranger")
        with (
            dask.config.set({f"{tls}client.cert": str(made), f"{tls}client.key": str(key)}),
            pytest.raises(ClusterError, match="no dask scheduler can be used") as caught,
        ):
            daskcluster.DaskWorkers(running.url)
        assert "\n" not in str(caught.value)
