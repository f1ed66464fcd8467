"""The asking side of one job: begins it in the seat that a cluster gave, fetches what it prints, and knows how it ended."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.remote.cluster import Job, JobFailed, JobStopped, WorkerLost
from lamina.pipelines.remote.frames import Frames
from lamina.pipelines.remote.hand import BOUND, Answer, Request, Verb
from lamina.pipelines.remote.job import Ended

MARGIN = 2.0  # seconds beside a lease, for what is on its way


class Unreachable(Exception):
    """No answer this time; the next call may have one."""


class NotThere(Exception):
    """The worker has no room yet; nothing was sent."""


class Seat(Protocol):
    """A place on one worker, kept for one job."""

    worker: str
    """For people."""

    def call(self, request: bytes, timeout: float) -> bytes:
        """`hand.call` in the process that keeps the seat. NotThere, until the first answer; Unreachable; WorkerLost where it is known to be gone; another LaminaError where it will never work."""

    def leave(self) -> None:
        """Give the place back. Idempotent, does not block for long, raises nothing."""


class Pulled:
    """A Running. `over` is called, in some thread, when the job has ended and the seat was left, or (with True) when the worker was lost before the job began: then
    `occupy` may follow once more."""

    def __init__(
        self, job: Job, said: Callable[[bytes], None], command: tuple[str, ...], lease: float, over: Callable[[bool], None]
    ) -> None:
        self._job = job
        self._ticket = ""
        self._said = said
        self._command = command
        self._lease = lease
        self._over = over
        self._frames = Frames()
        self._change = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._all_there = False
        self._stopped = False
        self._seat: Seat | None = None
        self._incarnation = ""
        self._begun = False
        self._error: BaseException | None = None
        self._done = threading.Event()

    # What the user of the cluster calls.

    def result(self) -> bytes:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._frames.last

    def cancel(self) -> None:
        with self._change:
            if self._stopped or self._done.is_set():
                return
            self._stopped = True
            seat, begun = self._seat, self._begun
            self._change.notify_all()
        if not begun:  # nor will it begin
            self._finish(None)
        if seat is None:
            self._over(False)
        elif begun:
            threading.Thread(target=self._try, args=(seat, "kill"), name=f"kill {self._job.name}", daemon=True).start()

    # What the dispatcher calls.

    def occupy(self, seat: Seat, ticket: str) -> None:
        """Begin there, under that name. Returns at once."""
        with self._change:
            stopped = self._stopped
            if not stopped:
                self._seat, self._ticket = seat, ticket
        if stopped:
            seat.leave()
            self._over(False)
            return
        threading.Thread(target=self._work, args=(seat,), name=f"job {self._job.name}", daemon=True).start()

    def fail(self, error: BaseException) -> None:
        """It will not begin. Of one that has a seat it means nothing."""
        with self._change:
            if self._seat is not None:
                return
        self._finish(error)
        self._over(False)

    # One thread fetches, one hands over: one who reads slowly must not look like one who is gone.

    def _work(self, seat: Seat) -> None:
        error: BaseException | None = None
        again = False
        teller = threading.Thread(target=self._tell, name=f"output of {self._job.name}", daemon=True)
        teller.start()
        try:
            ended = self._fetch(seat)
            error = _verdict(ended, seat.worker) if ended else None
        except WorkerLost as lost:
            again = not self._begun and not self._stopped
            error = lost
        except LaminaError as raised:
            error = raised
        except Exception as raised:  # a thread that dies silently would leave `result` waiting
            error = JobFailed(f"{self._job.name} on {seat.worker}: {type(raised).__name__}: {raised}")
        if self._incarnation:
            self._try(seat, "leave")
        seat.leave()
        with self._change:
            if again and not self._stopped:
                self._seat = None
            else:
                again = False
            self._all_there = True
            self._change.notify_all()
        teller.join()
        if again:
            self._all_there = False
            self._over(True)
            return
        self._finish(self._error or error)
        self._over(False)

    def _fetch(self, seat: Seat) -> Ended | None:
        """None where it was cancelled before it began."""
        wait = self._lease / 5
        while not self._incarnation:
            answer = self._ask(seat, Request("look", self._ticket, wait=wait))
            if answer.state == "waiting":
                self._incarnation = answer.incarnation
            elif self._stopped:
                return None
        with self._change:
            if self._stopped:
                return None
            self._begun = True
        begin = Request(
            "begin", self._ticket, incarnation=self._incarnation, command=self._command, payload=self._job.payload, lease=self._lease
        )
        self._known(self._ask(seat, begin), seat)
        after = 0
        while True:
            with self._change:
                stopped = self._stopped
                room = BOUND if stopped else BOUND - self._size
            if stopped:
                self._ask(seat, Request("kill", self._ticket, incarnation=self._incarnation))
            take = Request("take", self._ticket, incarnation=self._incarnation, after=after, room=max(room, 0), wait=wait)
            answer = self._known(self._ask(seat, take), seat)
            with self._change:
                if not stopped:
                    for piece in answer.pieces[after - answer.first :]:
                        self._pieces.append(piece)
                        self._size += len(piece)
                    self._change.notify_all()
                if room <= 0:
                    self._change.wait_for(lambda: self._size < BOUND or self._stopped, wait)
            after = answer.first + len(answer.pieces)
            if answer.state == "ended":
                return answer.ended

    def _ask(self, seat: Seat, request: Request) -> Answer:
        """WorkerLost when nothing was heard for so long that the worker has killed the job. The same request is sent again and again: each has its effect once."""
        data = msgspec.msgpack.encode(request)
        begun = sent = time.monotonic()
        while True:
            try:
                answer: Answer = msgspec.msgpack.decode(seat.call(data, request.wait + self._lease / 2), type=Answer)
            except NotThere:
                return Answer("unknown")
            except Unreachable:
                if time.monotonic() - begun > self._lease / 2:
                    # A request that was sent may have arrived: from the last one on a whole lease must pass.
                    self._pause(sent + self._lease + MARGIN - time.monotonic())
                    raise self._lost(seat, "does not answer") from None
                self._pause(min(0.2, self._lease / 10))
                sent = time.monotonic()
                continue
            except msgspec.MsgspecError as error:
                raise JobFailed(f"the lamina on {seat.worker} is another version: {error}") from None
            if answer.state == "refused":
                raise JobFailed(f"{self._job.name} on {seat.worker}: {answer.why}")
            return answer

    def _known(self, answer: Answer, seat: Seat) -> Answer:
        if answer.state == "unknown":
            raise self._lost(seat, "was started again")
        return answer

    def _lost(self, seat: Seat, why: str) -> WorkerLost:
        return WorkerLost(f"{seat.worker} {why}", transient=True)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def _try(self, seat: Seat, verb: Verb) -> None:
        try:
            seat.call(msgspec.msgpack.encode(Request(verb, self._ticket, incarnation=self._incarnation)), self._lease / 2)
        except (Unreachable, LaminaError):
            pass

    def _tell(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._pieces or self._all_there)
                if not self._pieces:
                    return
                piece = self._pieces.popleft()
            if self._error is None:
                try:
                    self._said(piece)
                    self._frames.feed(piece)
                except Exception as error:  # of the caller, or BadFrame: `result` raises it
                    self._error = error
                    self.cancel()
            with self._change:
                self._size -= len(piece)
                self._change.notify_all()

    def _finish(self, error: BaseException | None) -> None:
        with self._change:
            if self._done.is_set():
                return
            if self._stopped and self._error is None:
                error = JobStopped(f"{self._job.name} was cancelled")
            self._error = error
            self._done.set()


def _verdict(ended: Ended, worker: str) -> LaminaError | None:
    if ended.failed:
        return JobFailed(f"{worker} cannot start a job: {ended.failed}", hint="is the same lamina installed on the workers?")
    if ended.code < 0:
        return WorkerLost(f"{worker}: the job's process was ended by {_signal(-ended.code)}", transient=True)
    if ended.code:
        words = ended.errors.decode(errors="replace").strip().splitlines()
        return JobFailed(f"the job on {worker} ended with code {ended.code}" + (f": {words[-1]}" if words else ""))
    return None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
