"""What a cluster is made of, with workers that are this process: output, loss and repetition of messages, lost workers, cancelling, priorities."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from lamina.pipelines.remote import hand
from lamina.pipelines.remote.cluster import ClusterError, Job, JobFailed, JobStopped, Needs, WorkerLost
from lamina.pipelines.remote.dispatch import Dispatched
from lamina.pipelines.remote.frames import BadFrame, frame
from lamina.pipelines.remote.pulling import NotThere, Unreachable
from lamina.pipelines.remote.queueing import Machine

Say = Callable[[bytes], None]


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", text)


TALKS = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
STAYS = "import time\nprint('LLLL', end='', flush=True)\ntime.sleep(1000)"


class Seat:
    """`fault` may raise before or after the worker has seen a request, or change the answer."""

    worker = "here"

    def __init__(self, workers: Here, ticket: str) -> None:
        self._workers = workers
        self.ticket = ticket
        self.left = False

    def call(self, request: bytes, timeout: float) -> bytes:
        asked = msgspec.msgpack.decode(request, type=hand.Request)
        self._workers.asked.append(asked)
        self._workers.before(asked)
        answer = hand.call(request)
        self._workers.after(asked)
        return answer

    def leave(self) -> None:
        self.left = True


class Here:
    """As dispatch.Workers."""

    def __init__(self) -> None:
        self.there = [Machine("one", 1000, 1.0, 4)]
        self.seats: list[Seat] = []
        self.asked: list[hand.Request] = []
        self.before: Callable[[hand.Request], None] = lambda request: None
        self.after: Callable[[hand.Request], None] = lambda request: None
        self.closed = False

    def machines(self) -> list[Machine]:
        return self.there

    def seat(self, machine: str, ticket: str, job: Job, lease: float) -> Seat:
        threading.Thread(target=hand.hold, args=(ticket, lease), daemon=True).start()
        self.seats.append(Seat(self, ticket))
        return self.seats[-1]

    def close(self) -> None:
        self.closed = True


class Said:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.first = threading.Event()

    def __call__(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.first.set()

    def wait(self) -> None:
        assert self.first.wait(60)


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.fixture
def make(here: Here) -> Iterator[Callable[[str], Dispatched]]:
    made: list[Dispatched] = []

    def dispatched(text: str, lease: float = 20.0) -> Dispatched:
        made.append(Dispatched(here, command=python(text), lease=lease))
        return made[-1]

    yield dispatched
    for each in made:
        each.close()
    assert here.closed
    assert all(seat.left for seat in here.seats)


Make = Callable[..., Dispatched]


def job(payload: bytes = b"", priority: int = 0, name: str = "build") -> Job:
    return Job(name, payload, Needs(100, 1), priority)


def test_a_job_says_everything_and_answers(make: Make) -> None:
    payload = b"".join(frame("line", b"%d" % number) for number in range(1000)) + frame("result", b"well")
    said = Said()
    assert make(TALKS).submit(job(payload), said).result() == b"well"
    assert b"".join(said.pieces) == payload


def test_more_than_fits_between_two_who_read_slowly(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded on both sides: the job waits in its pipe."""
    monkeypatch.setattr(hand, "BOUND", 1000)
    monkeypatch.setattr("lamina.pipelines.remote.pulling.BOUND", 1000)
    payload = b"".join(frame("line", b"x" * 500 + b"%d" % number) for number in range(400)) + frame("result", b"well")
    said: list[bytes] = []
    assert make(TALKS).submit(job(payload), said.append).result() == b"well"
    assert b"".join(said) == payload


@pytest.mark.parametrize("when", ["before", "after"])
def test_messages_that_get_lost_lose_and_repeat_nothing(make: Make, here: Here, when: str) -> None:
    seen: dict[tuple[str, int], int] = {}

    def every_second(request: hand.Request) -> None:
        key = (request.verb, request.after)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] % 2:
            raise Unreachable

    setattr(here, when, every_second)
    text = "import sys\nfor line in sys.stdin.buffer: sys.stdout.buffer.write(line); sys.stdout.buffer.flush()"
    payload = b"".join(frame("line", b"%d\n" % number) for number in range(20)) + frame("result", b"well\n")
    said = Said()
    assert make(text).submit(job(payload), said).result() == b"well\n"
    assert b"".join(said.pieces) == payload
    assert [request.verb for request in here.asked].count("begin") == 2


def test_a_worker_that_is_silent_for_a_lease_is_lost(make: Make, here: Here) -> None:
    def silence(request: hand.Request) -> None:
        if request.verb == "take" and said.first.is_set():
            raise Unreachable

    said = Said()
    here.before = silence
    with pytest.raises(WorkerLost):
        make(STAYS, lease=1.0).submit(job(), said).result()


def test_a_worker_that_was_started_again_is_lost(make: Make, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    running = make(STAYS, lease=10.0).submit(job(), said)
    said.wait()
    monkeypatch.setattr(hand, "INCARNATION", "another")
    with pytest.raises(WorkerLost, match="started again"):
        running.result()
    monkeypatch.undo()
    hand._HELD[here.seats[0].ticket].leave()


def test_a_worker_that_is_lost_before_the_job_began_costs_nothing(make: Make, here: Here) -> None:

    def lose(request: hand.Request) -> None:
        if len(here.seats) < 3:
            raise WorkerLost("gone")

    here.before = lose
    running = make(TALKS).submit(job(frame("result", b"well")), Said())
    assert running.result() == b"well"
    assert [request.verb for request in here.asked].count("begin") == 1
    assert [seat.left for seat in here.seats] == [True] * 3


def test_cancel_before_it_has_a_place(make: Make, here: Here) -> None:
    here.there = []
    running = make(TALKS).submit(job(), Said())
    running.cancel()
    running.cancel()
    with pytest.raises(JobStopped):
        running.result()
    assert not here.asked


def test_cancel_while_the_place_is_waited_for(make: Make, here: Here) -> None:
    asked = threading.Event()

    def wait(request: hand.Request) -> None:
        if request.verb == "look":
            asked.set()
            raise NotThere

    here.before = wait
    running = make(TALKS).submit(job(), Said())
    assert asked.wait(60)
    running.cancel()
    with pytest.raises(JobStopped):
        running.result()
    assert "begin" not in [request.verb for request in here.asked]


def test_cancel_while_it_runs(make: Make) -> None:
    said = Said()
    running = make(STAYS).submit(job(), said)
    said.wait()
    running.cancel()
    with pytest.raises(JobStopped):
        running.result()


def test_closing_cancels_what_waits_and_what_runs(make: Make) -> None:
    said = Said()
    cluster = make(STAYS)
    first, second = cluster.submit(job(), said), cluster.submit(job(), said)
    said.wait()
    cluster.close()
    for each in (first, second):
        with pytest.raises(JobStopped):
            each.result()
    with pytest.raises(ClusterError):
        cluster.submit(job(), said)


def test_an_error_of_who_listens_ends_the_job(make: Make) -> None:
    def fail(piece: bytes) -> None:
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        make(STAYS).submit(job(), fail).result()


def test_a_job_that_prints_no_frames(make: Make) -> None:
    with pytest.raises(BadFrame):
        make("print('Traceback (most recent call last)')").submit(job(), Said()).result()


def test_a_command_that_is_not_there(here: Here) -> None:
    cluster = Dispatched(here, command=("/nowhere/lamina",))
    with pytest.raises(JobFailed, match="No such file"):
        cluster.submit(job(), Said()).result()
    cluster.close()


def test_another_version_on_the_worker_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand, "PROTOCOL", 2)
    with pytest.raises(JobFailed, match="speaks protocol 2, this one 1"):
        make(TALKS).submit(job(), Said()).result()


@pytest.mark.parametrize("transient", [False, True])
def test_a_cluster_that_is_gone_ends_what_waits_and_not_what_runs(
    make: Make, here: Here, monkeypatch: pytest.MonkeyPatch, transient: bool
) -> None:
    def gone() -> list[Machine]:
        raise ClusterError("gone", transient=transient)

    said = Said()
    cluster = make(STAYS)
    first = cluster.submit(job(), said)
    said.wait()
    with monkeypatch.context() as patched:
        patched.setattr(here, "machines", gone)
        patched.setattr(cluster, "_lease", 0.2)  # of the one that waits: so long it is asked again
        patched.setattr("lamina.pipelines.remote.dispatch.REFRESH", 0.05)
        with pytest.raises(ClusterError, match="gone"):
            cluster.submit(job(), Said()).result()
    first.cancel()
    with pytest.raises(JobStopped):
        first.result()


def test_a_cluster_that_does_not_answer_for_a_moment_is_asked_again(make: Make, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = here.seat
    times = iter(range(2))

    def sometimes(machine: str, ticket: str, asked: Job, lease: float) -> Seat:
        if next(times, None) is not None:
            raise ClusterError("busy", transient=True)
        return seat(machine, ticket, asked, lease)

    monkeypatch.setattr(here, "seat", sometimes)
    monkeypatch.setattr("lamina.pipelines.remote.dispatch.REFRESH", 0.05)
    assert make(TALKS).submit(job(frame("result", b"well")), Said()).result() == b"well"


def test_workers_that_come_later_are_used(make: Make, here: Here) -> None:
    there, here.there = here.there, []
    cluster = make(TALKS)
    running = cluster.submit(job(frame("result", b"well")), Said())
    assert cluster.fits(Needs(1, 1)) == "no worker is connected"
    here.there = there
    assert running.result() == b"well"
    assert cluster.fits(Needs(1, 1)) == ""


def test_no_payload_is_in_what_the_worker_answers() -> None:
    request = hand.Request("begin", "nobody", payload=b"s3cret", incarnation=hand.INCARNATION)
    data = msgspec.msgpack.encode(request)
    assert b"s3cret" not in hand.call(data)
    assert b"s3cret" not in hand.call(data[:-10])
    assert msgspec.msgpack.decode(hand.call(b"\xc1s3cret"), type=hand.Answer).state == "refused"
