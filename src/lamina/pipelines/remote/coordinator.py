"""Steps on a cluster, seen from where the run is: orders out, logs and results in, lost workers' steps again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.plan import PlannedStep
from lamina.pipelines.remote.cluster import Cluster, Job, JobStopped, WorkerLost
from lamina.pipelines.remote.fitting import needs_of, priority_of
from lamina.pipelines.remote.frames import BadFrame, Frames
from lamina.pipelines.remote.order import Left, Login, Order, Parcel, encode, order_step, read_done
from lamina.pipelines.remote.parcels import Parcels
from lamina.pipelines.remote.working import failed, keep_file
from lamina.pipelines.run.around import DueStep, Ordering, StepResult
from lamina.pipelines.run.artifacts import ArtifactStore, Kept
from lamina.pipelines.run.checkout import Checkouts
from lamina.pipelines.run.log import StepLog
from lamina.pipelines.run.record import summary_of
from lamina.pipelines.show import visible
from lamina.solver.cancel import CancelToken

ATTEMPTS = 3  # of a step whose worker is lost each time


class Terms(msgspec.Struct, frozen=True):
    """What is the same in all orders of a run; as Order."""

    project: str
    title: str
    shared: str
    shared_environment: Mapping[str, str]
    image_map: Mapping[str, str]
    logins: Callable[[PlannedStep], tuple[Login, ...]]
    insecure_registries: tuple[str, ...] = ()
    registry_ca: str = ""
    docker_cli: str = "auto"
    own_network: bool = True
    save_on_failure: bool = False


class OnCluster:
    """As StepRunner. `folder`: the run's, with `logs/`. `close` takes away what the run has put into the shared place."""

    def __init__(
        self,
        around: Ordering,
        folder: Path,
        cluster: Cluster,
        parcels: Parcels,
        checkouts: Checkouts,
        artifacts: ArtifactStore,
        terms: Terms,
    ) -> None:
        self._around = around
        self._folder = folder
        self._cluster = cluster
        self._parcels = parcels
        self._checkouts = checkouts
        self._artifacts = artifacts
        self._terms = terms
        self._lock = threading.Lock()
        self._sent: dict[Path, Parcel] = {}
        self._turns: dict[Path, threading.Lock] = {}

    def run(self, due: DueStep, cancel: CancelToken, begins: Callable[[], None]) -> StepResult:
        """As StepRunner."""
        planned = due.planned
        secrets = (*planned.variables.secrets(), *((one.name, one.value) for one in due.given if one.secured))
        log = StepLog(self._around.terminal, due.prefix, self._folder / "logs" / f"{planned.number}.log", secrets, planned.number)
        watched = _Watched(self._around, planned, log, self._folder / "logs", begins)
        began = time.monotonic()
        try:
            result = self._attempts(due, cancel, log, watched)
        except JobStopped:
            log.flush()
            log.say("stopped")
            result = watched.result("stopped", 130, "stopped", time.monotonic() - began)
        except LaminaError as error:
            reason = visible(log.mask(error.message))
            log.say(f"error: {reason}" + (f" ({log.mask(error.hint)})" if error.hint else ""))
            status = "stopped" if cancel.cancelled() else "failed"
            result = watched.result(status, error.exit_code, reason, time.monotonic() - began)
        except OSError as error:
            reason = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
            log.say(f"error: {reason}")
            result = watched.result("failed", 1, reason, time.monotonic() - began)
        finally:
            log.close()
        self._around.terminal.ended(planned.number, summary_of(result), bad=result.bad)
        return result

    def close(self) -> None:
        with self._lock:
            sent = list(self._sent.values())
        self._parcels.drop(sent)

    def _attempts(self, due: DueStep, cancel: CancelToken, log: StepLog, watched: _Watched) -> StepResult:
        planned = due.planned
        for number in range(1, ATTEMPTS + 1):
            order = self._order(due)
            watched.attempt()
            try:
                return self._once(planned, order, cancel, log, watched)
            except WorkerLost as lost:
                log.flush()
                if cancel.cancelled():
                    raise JobStopped(f"{planned.number}. {planned.name}: stopped") from lost
                told = f"the worker was lost in attempt {number} of {ATTEMPTS}: {visible(lost.message)}"
                if number == ATTEMPTS:
                    raise WorkerLost(told, hint=lost.hint) from lost
                log.say(f"{told}; what is above was lost with it, the step runs again from its beginning")
        raise AssertionError("a loop over no attempts")

    def _once(self, planned: PlannedStep, order: Order, cancel: CancelToken, log: StepLog, watched: _Watched) -> StepResult:
        needs = needs_of(planned)
        name = f"{planned.number}. {visible(log.mask(planned.name))}"
        running = self._cluster.submit(Job(name, encode(order), needs, priority_of(planned)), watched.said)
        leave = cancel.on_cancel(running.cancel)
        try:
            running.result()
        finally:
            leave()
        if watched.problem is not None:
            raise watched.problem
        if not watched.last:
            raise WorkerLost("the job ended without an answer")
        done = read_done(watched.last)
        if done.result is None:
            raise LaminaError(done.error or "the worker could not begin", hint=done.hint or None)
        result = msgspec.structs.replace(done.result, number=planned.number, started=watched.begun or self._around.now())
        try:
            for left in done.left:
                self._adopt(left, planned)
        except (LaminaError, OSError) as error:
            why = f"its artifacts did not arrive: {getattr(error, 'message', None) or error}"
            log.say(f"error: {why}")
            result = failed(result, why)
        return result

    # What travels

    def _order(self, due: DueStep) -> Order:
        terms, planned = self._terms, due.planned
        pristine, words = self._checkouts.pristine(planned.clone)
        return Order(
            step=order_step(planned),
            attempt=due.attempt,
            given=due.given,
            before=due.before,
            left=tuple(Left(kept, self._parcel(folder)) for kept, folder in self._wanted(planned, due.before)),
            clone=None if pristine is None else self._parcel(pristine),
            clone_words=words,
            project=terms.project,
            title=terms.title,
            shared=terms.shared,
            shared_environment=dict(terms.shared_environment),
            image_map=dict(terms.image_map),
            logins=terms.logins(planned),
            insecure_registries=terms.insecure_registries,
            registry_ca=terms.registry_ca,
            docker_cli=terms.docker_cli,
            own_network=terms.own_network,
            save_on_failure=terms.save_on_failure,
        )

    def _wanted(self, planned: PlannedStep, before: Sequence[int]) -> list[tuple[Kept, Path]]:
        """Artifacts that the step will put into its clone directory."""
        wanted = planned.step.artifacts
        choice = True if wanted is None else wanted.download
        if choice is False:
            return []
        names = None if choice is True else {text.value for text in choice}
        return [
            (kept, folder)
            for kept, folder in self._artifacts.of(before)
            if kept.shared and (names is None or kept.name in names or kept.title in names)
        ]

    def _parcel(self, folder: Path) -> Parcel:
        """Packed once in a run; again where somebody has tidied the shared place meanwhile."""
        with self._lock:
            turn = self._turns.setdefault(folder, threading.Lock())
        with turn:
            known = self._sent.get(folder)
            if known is None or not self._parcels.there(known):
                known = self._parcels.put(folder)
                with self._lock:
                    self._sent[folder] = known
            return known

    def _adopt(self, left: Left, planned: PlannedStep) -> None:
        kept = msgspec.structs.replace(left.kept, step=planned.number)

        def fill(folder: Path) -> None:
            self._parcels.get(left.parcel, folder)
            with self._lock:
                self._sent[folder] = left.parcel

        self._artifacts.adopt(kept, fill)


class _Watched:
    """What the jobs of one step print."""

    def __init__(self, around: Ordering, planned: PlannedStep, log: StepLog, logs: Path, begins: Callable[[], None]) -> None:
        self._around = around
        self._planned = planned
        self._log = log
        self._logs = logs
        self._begins = begins
        self._lock = threading.Lock()
        self._frames = Frames()
        self._shown = False
        self.begun = 0.0
        self.problem: LaminaError | None = None

    @property
    def last(self) -> bytes:
        return self._frames.last

    def attempt(self) -> None:
        """Another job of the step is about to be submitted."""
        self._frames = Frames()
        self.problem = None

    def said(self, piece: bytes) -> None:
        with self._lock:
            if self.problem is not None:
                return
            try:
                frames = self._frames.feed(piece)
            except BadFrame as error:
                self.problem = error
                return
            for frame in frames:
                if frame.kind == "line":
                    self._log.output("stdout", frame.body + b"\n")
                elif frame.kind == "begin":
                    self._begin()
                elif frame.kind == "file":
                    try:
                        keep_file(frame.body, self._logs, self._planned.number)
                    except OSError as error:
                        self._log.say(f"a service's log cannot be kept: {error.strerror}")

    def result(self, status: str, code: int, reason: str, seconds: float) -> StepResult:
        """Of a step that has none of its own."""
        planned = self._planned
        started = self.begun or self._around.now()
        took = max(0.0, self._around.now() - started) if self.begun else seconds
        return StepResult(planned.number, visible(self._log.mask(planned.name)), status, code, took, started, reason)

    def _begin(self) -> None:
        self.begun = self._around.now()
        if not self._shown:
            self._shown = True
            planned = self._planned
            name = visible(self._log.mask(planned.name))
            self._around.terminal.begun(planned.number, f"{planned.number}. {name}", parallel=planned.parallel is not None)
        self._begins()
