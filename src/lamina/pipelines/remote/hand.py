"""The worker's side: the jobs that this process holds for others, and `call`, the one function through which they are spoken to.

A job begins when somebody says `begin`, once; `take` fetches what it printed, from a number on, and says by that number what has arrived. What was not fetched is
kept, up to BOUND bytes; then the job waits. A job that nobody spoke for during its lease is killed. Nothing is raised and nothing of a payload is logged:
clusters write exceptions and arguments into their logs.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from lamina.pipelines.remote.job import LEASE, Ended, Process, lamina_command

BOUND = 1 << 20  # bytes of a job's output that wait here
PROTOCOL = 1
INCARNATION = uuid.uuid4().hex
"""This process: a worker that was started again under its old address is another one."""

Verb = Literal["look", "begin", "take", "kill", "leave"]
State = Literal["unknown", "waiting", "running", "ended", "refused"]


class Request(msgspec.Struct, frozen=True):
    """`begin` has command (none: this worker's lamina), payload and lease (seconds); `take` has `after` (pieces that arrived), `room` (bytes wanted; 0 only renews) and `wait` (seconds for something new).
    `look` waits for the slot. Every request but `look` names the incarnation."""

    verb: Verb
    job: str
    protocol: int = PROTOCOL
    incarnation: str = ""
    command: tuple[str, ...] = ()
    payload: bytes = b""
    lease: float = LEASE
    after: int = 0
    room: int = BOUND
    wait: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    """`unknown`: this process never held the job or holds it no longer. `ended` comes with the last pieces. `refused`: `why`."""

    state: State
    incarnation: str = INCARNATION
    first: int = 0
    pieces: list[bytes] = []
    ended: Ended | None = None
    why: str = ""


class Held:
    """A job's place in this process."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._process: Process | None = None
        self._state: State = "waiting"
        self._pieces: deque[bytes] = deque()
        self._first = 0
        self._size = 0
        self._ended: Ended | None = None
        self._left = False
        self._killed = False
        self._spoken = time.monotonic()

    def begin(self, request: Request) -> Answer:
        with self._change:
            self._spoken = time.monotonic()
            if self._state == "waiting" and not self._left:
                self._state = "running"
                threading.Thread(target=self._run, args=(request,), name=f"job {request.job}", daemon=True).start()
            return Answer(self._state)

    def take(self, request: Request) -> Answer:
        with self._change:
            self._renew()
            while self._pieces and self._first < request.after:
                self._size -= len(self._pieces.popleft())
                self._first += 1
                self._change.notify_all()
            if request.room and request.wait:
                self._change.wait_for(lambda: self._pieces or self._state == "ended", request.wait)
                self._renew()
            pieces: list[bytes] = []
            size = 0
            for piece in self._pieces:
                size += len(piece)
                if (pieces and size > request.room) or not request.room:
                    break
                pieces.append(piece)
            over = self._state == "ended" and len(pieces) == len(self._pieces)
            return Answer("ended" if over else "running", first=self._first, pieces=pieces, ended=self._ended if over else None)

    def kill(self) -> None:
        with self._change:
            self._renew()
            self._killed = True
            if self._process is not None:
                self._process.kill()
            elif self._state == "waiting":
                self._finish(Ended(-9))

    def leave(self) -> None:
        """The slot is wanted no more: what runs is killed."""
        self.kill()
        with self._change:
            self._left = True
            self._pieces.clear()
            self._size = 0
            self._change.notify_all()

    def stay(self, lease: float, alive: Callable[[], bool]) -> None:
        """Keep the slot until the job has ended and somebody has left it, until nobody speaks for it, or until the worker is closing."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self._left and self._state == "ended", 0.5)
                over = self._left and self._state == "ended"
                silent = time.monotonic() - self._spoken > lease
            if over or (silent and self._state != "running"):
                return
            if silent or not alive():
                self.leave()
                if not alive():
                    return

    def _renew(self) -> None:
        self._spoken = time.monotonic()
        if self._process is not None:
            self._process.renew()

    def _run(self, request: Request) -> None:
        try:
            process = Process(request.command or lamina_command(), request.payload, request.lease)
        except Exception as error:  # whatever it is, the one who asked is told
            with self._change:
                self._finish(Ended(127, failed=f"the job cannot be started on {os.uname().nodename}: {error}"))
            return
        with self._change:
            self._process = process
            if self._killed:
                process.kill()
        while piece := process.read():
            with self._change:
                self._change.wait_for(lambda: self._size < BOUND or self._left)
                if not self._left:
                    self._pieces.append(piece)
                    self._size += len(piece)
                    self._change.notify_all()
        ended = process.end()
        with self._change:
            self._finish(ended)

    def _finish(self, ended: Ended) -> None:
        self._ended = ended
        self._state = "ended"
        self._process = None
        self._change.notify_all()


_HELD: dict[str, Held] = {}
_CHANGED = threading.Condition()


def hold(job: str, lease: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Occupies the place of one job in this process for as long as there is one."""
    held = Held()
    with _CHANGED:
        if job in _HELD:  # a cluster that runs a task again: the job itself never runs twice
            return
        _HELD[job] = held
        _CHANGED.notify_all()
    try:
        held.stay(lease, alive)
    finally:
        with _CHANGED:
            del _HELD[job]


def call(request: bytes) -> bytes:
    """A Request to an Answer, both as MessagePack. Blocks for the request's `wait`."""
    try:
        return msgspec.msgpack.encode(_answer(msgspec.msgpack.decode(request, type=Request)))
    except msgspec.MsgspecError as error:
        return refused(f"the lamina on the worker is another version: {error}")
    except Exception as error:
        return refused(f"{type(error).__name__} on the worker")


def refused(why: str) -> bytes:
    """An Answer."""
    return msgspec.msgpack.encode(Answer("refused", why=why))


def _answer(request: Request) -> Answer:
    if request.protocol != PROTOCOL:
        return Answer(
            "refused", why=f"the lamina on the worker speaks protocol {PROTOCOL}, this one {request.protocol}; install the same version"
        )
    with _CHANGED:
        if request.verb == "look":
            _CHANGED.wait_for(lambda: request.job in _HELD, request.wait)
        held = _HELD.get(request.job)
    if held is None or (request.incarnation != INCARNATION and request.verb != "look"):
        return Answer("unknown")
    match request.verb:
        case "look":
            return Answer("waiting")
        case "begin":
            return held.begin(request)
        case "take":
            return held.take(request)
        case "kill":
            held.kill()
        case "leave":
            held.leave()
    return Answer("running")
