"""The scheduler as a pure machine: `handle(event)` gives the commands that follow. No clock, no thread, no I/O, no recursion.

A node's life: its inputs have results -> Identify -> LookUp -> Found, or its inputs are made present -> Run. A node that was
found is not made present before something runs on it or exports it; if its files are gone it runs after all. Work is linear in
the number of edges. Commands depend on the order of events only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, Literal, cast

from lamina.diagnostics.errors import LaminaError
from lamina.solver.events import (
    Absent,
    Cancel,
    Done,
    Ended,
    Failed,
    Found,
    Identified,
    Identify,
    LookUp,
    MakePresent,
    N,
    NeedsPresent,
    NotFound,
    Outcome,
    Present,
    R,
    Ran,
    Run,
    Share,
    Status,
    Stop,
    Unknown,
    Want,
)

if TYPE_CHECKING:
    from lamina.solver.events import Command, Event


class SolverFault(LaminaError):
    """A performer broke the protocol (an answer that nobody asked for), or the graph has a cycle: a defect of lamina."""

    code = "solver/fault"
    default_exit = 70


Phase = Literal["new", "identifying", "looking", "gathering", "ready", "running", "sharing", "shared", "presenting", "settled", "ended"]
Goal = Literal["identify", "present", "run"]


class _Track(Generic[N, R]):
    """All that is known of one node."""

    __slots__ = (
        "dependants", "error", "evicted", "goal", "identified", "inputs", "key", "node", "pending", "phase", "present", "ran",
        "result", "retried", "seen", "sharers", "status", "unidentified", "version", "waiters", "wanted",
    )  # fmt: skip

    def __init__(self, node: N) -> None:
        self.node = node
        self.inputs: list[_Track[N, R] | None] = []
        self.dependants: list[_Track[N, R]] = []
        self.unidentified = 0  # distinct inputs without a result
        self.phase: Phase = "new"
        self.status: Status = "waiting"
        self.key: str | None = None
        self.result: R | None = None
        self.version = 0  # counts results: a node that ran after all may have got another one than its record promised
        self.seen: tuple[int, ...] = ()  # the inputs' versions when it was last identified
        self.identified = False
        self.present = False
        self.wanted = False  # somebody waits for its files
        self.waiters: list[_Track[N, R]] = []
        self.goal: Goal = "identify"  # what follows when `pending` inputs have become present
        self.pending = 0
        self.evicted = False
        self.retried = False
        self.ran = False
        self.sharers: list[_Track[N, R]] = []
        self.error: BaseException | None = None


class Machine(Generic[N, R]):
    """One build or plan. `jobs` limits Run commands under way; the others are the driver's to bound."""

    def __init__(self, jobs: int = 4, mode: Literal["build", "plan"] = "build") -> None:
        self._jobs = max(1, jobs)
        self._plan = mode == "plan"
        self._tracks: dict[int, _Track[N, R]] = {}  # by id(node); the track keeps the node alive
        self._order: list[_Track[N, R]] = []
        self._ready: deque[_Track[N, R]] = deque()
        self._runs: dict[str, _Track[N, R]] = {}  # who runs or ran under a key
        self._out: list[Command[N, R]] = []
        self._open = 0  # commands without an answer
        self._running = 0
        self._started = self._stopping = self._cancelled = self._done = False
        self._failed: _Track[N, R] | None = None

    def handle(self, event: Event[N, R]) -> list[Command[N, R]]:
        """Raises SolverFault where the event answers no command."""
        if isinstance(event, Want):
            self._want(event.targets, present=event.present and not self._plan)
        elif isinstance(event, Cancel):
            self._cancelled = True
            self._stop()
        else:
            self._answer(event)
        self._pump()
        out, self._out = self._out, []
        return out

    # Events

    def _want(self, targets: tuple[N, ...], *, present: bool) -> None:
        if self._started:
            raise SolverFault("Want came twice")
        self._started = True
        self._explore(targets)
        for target in targets:
            track = self._tracks[id(target)]
            track.wanted = track.wanted or present
        if not self._stopping:
            for track in self._order:
                if not track.unidentified:
                    self._identify(track)

    def _answer(self, event: Event[N, R]) -> None:
        assert not isinstance(event, Want | Cancel)
        track = self._tracks.get(id(event.node))
        if track is None:
            raise SolverFault("an answer about a node that is not in the graph")
        phase = track.phase
        if phase not in _ANSWERS or not isinstance(event, _ANSWERS[phase]):
            raise SolverFault(f"{type(event).__name__} is no answer to a node that is {phase}")
        self._open -= 1
        if phase == "running":
            self._running -= 1
        if isinstance(event, Failed):
            self._fail(track, event.error)
        elif self._stopping:
            self._finish_late(track, event)
        elif isinstance(event, Identified):
            self._identified(track, event.key, event.result)
        elif isinstance(event, NeedsPresent):
            self._needs_present(track, event.inputs)
        elif isinstance(event, Unknown):
            self._unknown(track)
        elif isinstance(event, Found):
            track.present = phase == "sharing"
            self._settle(track, event.result, "shared" if phase == "sharing" else "hit")
        elif isinstance(event, NotFound):
            self._not_found(track, event.result)
        elif isinstance(event, Present):
            track.phase = "settled"
            self._became_present(track)
        elif isinstance(event, Absent):
            self._absent(track)
        else:
            self._ran(track, event.result)

    def _identified(self, track: _Track[N, R], key: str | None, result: R | None) -> None:
        if key is not None:
            if key != track.key:
                track.evicted = False
            track.key = key
            track.phase = "looking"
            self._emit(LookUp(track.node, key, self._results(track)))
        elif result is not None:
            self._settle(track, result, "pure")
        else:
            self._fail(track, SolverFault("Identified without key and result"))

    def _needs_present(self, track: _Track[N, R], nodes: tuple[N, ...]) -> None:
        if self._plan:
            self._unknown(track)
            return
        needed = [t for t in track.inputs if t is not None and any(t.node is node for node in nodes)]
        if all(t.present for t in needed):
            self._fail(track, SolverFault("NeedsPresent names no input whose files are missing"))
        else:
            self._gather(track, "identify", needed)

    def _not_found(self, track: _Track[N, R], result: R | None) -> None:
        if not self._plan:
            self._gather(track, "run", track.inputs)
        elif result is None:
            self._unknown(track)
            track.status = "missed"
        else:
            self._settle(track, result, "missed")

    def _unknown(self, track: _Track[N, R]) -> None:
        stack = [track]
        while stack:
            current = stack.pop()
            if current.phase != "ended":
                current.phase, current.status = "ended", "unknown"
                stack.extend(current.dependants)

    def _absent(self, track: _Track[N, R]) -> None:
        if track.key is not None:
            track.evicted = True
            self._gather(track, "run", track.inputs)
        elif track.retried:
            self._fail(track, SolverFault("a pure node is absent although its inputs are present"))
        else:
            track.retried = True
            self._gather(track, "present", track.inputs)

    def _ran(self, track: _Track[N, R], result: R) -> None:
        track.ran = track.present = True
        self._settle(track, result, "ran")
        sharers, track.sharers = track.sharers, []
        for sharer in sharers:
            self._share(sharer, track)

    def _fail(self, track: _Track[N, R], error: BaseException) -> None:
        track.phase, track.error = "ended", error
        if self._stopping:
            track.status = "cancelled"
        else:
            track.status = "failed"
            self._failed = track
            self._stop()

    def _finish_late(self, track: _Track[N, R], event: Event[N, R]) -> None:
        """An answer after the stop: what was completed is reported as such, nothing follows from it."""
        if isinstance(event, Ran):
            track.result, track.status = event.result, "ran"
        elif isinstance(event, Found):
            track.result, track.status = event.result, "shared" if track.phase == "sharing" else "hit"
        elif isinstance(event, Identified) and event.key is None:
            track.result, track.status = event.result, "pure"
        track.phase = "ended"

    # Steps

    def _identify(self, track: _Track[N, R]) -> None:
        track.phase = "identifying"
        track.seen = self._versions(track)
        self._emit(Identify(track.node, self._results(track)))

    def _settle(self, track: _Track[N, R], result: R, status: Status) -> None:
        track.phase, track.status, track.result = "settled", status, result
        track.version += 1
        if not track.identified:
            track.identified = True
            for dependant in track.dependants:
                dependant.unidentified -= 1
                if not dependant.unidentified and dependant.phase == "new":
                    self._identify(dependant)
        if track.present:
            self._became_present(track)
        elif track.wanted:
            self._ask_present(track)

    def _ask_present(self, track: _Track[N, R]) -> None:
        assert track.result is not None
        track.phase = "presenting"
        self._emit(MakePresent(track.node, track.key, track.result))

    def _became_present(self, track: _Track[N, R]) -> None:
        track.present = True
        waiters, track.waiters = track.waiters, []
        for waiter in waiters:
            waiter.pending -= 1
            if not waiter.pending:
                self._gathered(waiter)

    def _gather(self, track: _Track[N, R], goal: Goal, needed: Iterable[_Track[N, R] | None]) -> None:
        """Make the inputs present, then go on with `goal`."""
        track.phase, track.goal, track.pending = "gathering", goal, 0
        for wanted in {id(t): t for t in needed if t is not None and not t.present}.values():
            track.pending += 1
            wanted.waiters.append(track)
            wanted.wanted = True
            if wanted.phase == "settled":
                self._ask_present(wanted)
        if not track.pending:
            self._gathered(track)

    def _gathered(self, track: _Track[N, R]) -> None:
        if track.goal == "identify" or track.seen != self._versions(track):
            # An input that had to run after all has a new result: the key may be another one, and so may the answer to it.
            self._identify(track)
        elif track.goal == "present":
            self._ask_present(track)
        else:
            self._claim(track)

    def _claim(self, track: _Track[N, R]) -> None:
        """Run it, unless its key runs or ran.

        Claimed only now that the inputs are present: an owner that waited for a sharer's files would be a deadlock.
        """
        assert track.key is not None
        owner = self._runs.setdefault(track.key, track)
        if owner is track:
            track.phase = "ready"
            self._ready.append(track)
        elif owner.ran:
            self._share(track, owner)
        else:
            track.phase = "shared"
            owner.sharers.append(track)

    def _share(self, track: _Track[N, R], owner: _Track[N, R]) -> None:
        assert track.key is not None
        assert owner.result is not None
        track.phase = "sharing"
        self._emit(Share(track.node, track.key, owner.result, owner.node))

    def _pump(self) -> None:
        while self._ready and self._running < self._jobs and not self._stopping:
            track = self._ready.popleft()
            assert track.key is not None
            track.phase = "running"
            self._running += 1
            self._emit(Run(track.node, track.key, self._results(track), track.evicted))
        if self._started and not self._open and not self._done:
            if not self._stopping and any(t.phase not in ("settled", "ended") for t in self._order):
                raise SolverFault("the graph has a cycle, or a node waits for nothing")
            self._done = True
            self._out.append(Done(self._outcome()))

    def _stop(self) -> None:
        if not self._stopping and not self._done:
            self._stopping = True
            self._ready.clear()
            if self._open:
                self._out.append(Stop())

    def _emit(self, command: Identify[N, R] | LookUp[N, R] | MakePresent[N, R] | Run[N, R] | Share[N, R]) -> None:
        self._open += 1
        self._out.append(command)

    def _results(self, track: _Track[N, R]) -> tuple[R | None, ...]:
        return tuple(t.result if t is not None else None for t in track.inputs)

    def _versions(self, track: _Track[N, R]) -> tuple[int, ...]:
        return tuple(t.version for t in track.inputs if t is not None)

    def _outcome(self) -> Outcome[N, R]:
        ended = tuple(Ended(t.node, t.status, t.key, t.result, t.error) for t in self._order)
        failed = self._failed
        return Outcome(ended, failed.node if failed else None, failed.error if failed else None, self._cancelled)

    def _explore(self, targets: tuple[N, ...]) -> None:
        """Tracks for all reachable nodes, inputs first."""
        stack: list[tuple[N, bool]] = [(node, False) for node in reversed(targets)]
        while stack:
            node, inputs_done = stack.pop()
            track = self._tracks.get(id(node))
            # The machine is generic in the node's type, Node.inputs is not: all nodes of a graph are of one type.
            inputs = cast("tuple[N | None, ...]", node.inputs)
            if inputs_done:
                assert track is not None
                self._order.append(track)
                track.inputs = [None if i is None else self._tracks[id(i)] for i in inputs]
                distinct = {id(t): t for t in track.inputs if t is not None}
                track.unidentified = len(distinct)
                for t in distinct.values():
                    t.dependants.append(track)
            elif track is None:
                self._tracks[id(node)] = _Track(node)
                stack.append((node, True))
                stack.extend((i, False) for i in reversed(inputs) if i is not None and id(i) not in self._tracks)


_ANSWERS: dict[Phase, tuple[type, ...]] = {
    "identifying": (Identified, NeedsPresent, Unknown, Failed),
    "looking": (Found, NotFound, Failed),
    "presenting": (Present, Absent, Failed),
    "running": (Ran, Failed),
    "sharing": (Found, Failed),
}
