"""A whole plan: items in order, groups in parallel, stages, manual steps, children, the final step. The calling thread orders, a pool works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Protocol

import msgspec

from lamina.diagnostics.errors import located
from lamina.pipelines.changes import Decision, decide
from lamina.pipelines.plan import Plan, PlannedGroup, PlannedItem, PlannedStage, PlannedStep
from lamina.pipelines.run.around import Around, DueStep, Ordering, StepResult
from lamina.pipelines.run.steps import StepRun
from lamina.pipelines.show import visible
from lamina.pipelines.variables import Variable, layer
from lamina.solver.cancel import CancelToken

Confirm = Callable[[str], bool]
"""Whether a manual step or stage shall start; the text names it."""


class Selection(msgspec.Struct, frozen=True):
    """Which steps run, by number; None: all. What is not selected counts as passed. `attempt` rises with each rerun."""

    numbers: frozenset[int] | None = None
    attempt: int = 1

    def has(self, planned: PlannedStep) -> bool:
        return self.numbers is None or planned.number in self.numbers


class StepRunner(Protocol):
    """Where steps run. Thread-safe."""

    def run(self, due: DueStep, cancel: CancelToken, begins: Callable[[], None]) -> StepResult:
        """Never raises for what the step does. `begins` is called when it does, from any thread; again when it begins anew."""
        ...


class Here:
    """Steps on this machine."""

    def __init__(self, around: Around) -> None:
        self._around = around

    def run(self, due: DueStep, cancel: CancelToken, begins: Callable[[], None]) -> StepResult:
        """As StepRunner."""
        begins()
        return StepRun(self._around, due, cancel).run()


class Runner:
    """`changed`: as the plan's. `results` grows while the plan runs; so does `begun`, in seconds since the epoch; `changed_results` is called each time, from any thread. `given`: output variables that
    steps of an earlier run left."""

    def __init__(
        self,
        around: Ordering,
        steps: StepRunner,
        selection: Selection,
        confirm: Confirm,
        cancel: CancelToken,
        jobs: int,
        changed: tuple[str, ...] | None,
        given: Sequence[Variable] = (),
        width: int = 0,
        changed_results: Callable[[], None] = lambda: None,
    ) -> None:
        self._around = around
        self._steps = steps
        self._selection = selection
        self._confirm = confirm
        self._cancel = cancel
        self._slots = threading.Semaphore(jobs)
        self._changed = changed
        self._outputs: dict[str, Variable] = {one.name: one for one in given}
        self._before: list[int] = []
        self._width = width
        self._changed_results = changed_results
        self._exclusive: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self.results: list[StepResult] = []
        self.begun: dict[int, float] = {}

    def run(self, plan: Plan) -> bool:
        """Whether everything passed."""
        passed = True
        for item in plan.items:
            if isinstance(item, PlannedStep) and item.final:
                # The final step runs whatever happened, also after Ctrl-C as far as it got here.
                passed = self._step_or_child(item, CancelToken() if self._cancel.cancelled() else self._cancel) and passed
            elif passed and not self._cancel.cancelled():
                passed = self._item(item)
            else:
                self._not_run(item, "an earlier step failed" if not self._cancel.cancelled() else "stopped")
        return passed and not self._cancel.cancelled()

    def _item(self, item: PlannedItem) -> bool:
        if isinstance(item, PlannedStep):
            return self._step_or_child(item, self._cancel)
        if isinstance(item, PlannedGroup):
            return self._group(item)
        return self._stage(item)

    def _stage(self, stage: PlannedStage) -> bool:
        wanted = any(self._selection.has(step) for step in _flat(stage))
        if stage.manual and wanted and not self._confirm(f"stage {visible(stage.name)}"):
            self._not_run(stage, "the manual stage was not started", "declined")
            return False
        passed = True
        for item in stage.items:
            if passed and not self._cancel.cancelled():
                passed = self._item(item)
            else:
                self._not_run(item, "an earlier step of the stage failed" if not self._cancel.cancelled() else "stopped")
        return passed

    def _group(self, group: PlannedGroup) -> bool:
        """Siblings start together; what one leaves the others do not see."""
        before, outputs = tuple(self._before), tuple(self._outputs.values())
        token = self._cancel.child()
        runs: list[tuple[PlannedStep, Future[StepResult]]] = []
        try:
            for planned in group.steps:
                if planned.child is not None:
                    continue
                early = self._early(planned)
                if early is not None:
                    self._add(early)
                    continue
                if planned.manual and not self._confirm(f"step {planned.number}. {visible(planned.name)}"):
                    self._add(_result(planned, "declined", "the manual step was not started"))
                    continue
                runs.append((planned, self._around.pool.submit(self._one, planned, outputs, before, token, group)))
            children = [self._child(planned) for planned in group.steps if planned.child is not None]
            self._wait([run for _, run in runs])
            done = [run.result() for _, run in runs]
        finally:
            token.close()
        for result in sorted(done, key=lambda result: result.number):
            self._leave(result)
        numbers = {planned.number for planned in group.steps}
        return all(children) and not any(result.bad for result in self.results if result.number in numbers)

    def _wait(self, runs: Sequence[Future[StepResult]]) -> None:
        """On the main thread, where Ctrl-C arrives: it cancels, then everything is waited for."""
        try:
            wait(runs)
        except KeyboardInterrupt:
            self._cancel.cancel()
            wait(runs)

    def _one(
        self, planned: PlannedStep, outputs: tuple[Variable, ...], before: tuple[int, ...], token: CancelToken, group: PlannedGroup | None
    ) -> StepResult:
        exclusive = self._turn(planned.step.concurrency_group)
        with self._slots, exclusive:
            if token.cancelled():
                result = _result(planned, "stopped", "stopped before it began")
            else:
                due = DueStep(planned, outputs, before, self._prefix(planned), self._selection.attempt)
                result = self._steps.run(due, token, lambda: self._begins(planned))
        if group is not None:
            if result.status == "failed" and planned.fail_fast:
                token.cancel()
            self._add(result)
        return result

    def _begins(self, planned: PlannedStep) -> None:
        with self._lock:
            self.begun[planned.number] = self._around.now()
        self._changed_results()

    def _turn(self, name: str | None) -> threading.Lock:
        if name is None:
            return threading.Lock()
        with self._lock:
            return self._exclusive.setdefault(name, threading.Lock())

    def _step_or_child(self, planned: PlannedStep, cancel: CancelToken) -> bool:
        early = self._early(planned)
        if early is not None:
            self._add(early)
            return not early.bad
        if planned.manual and not self._confirm(f"step {planned.number}. {visible(planned.name)}"):
            self._add(_result(planned, "declined", "the manual step was not started"))
            return False
        if planned.child is not None:
            return self._child(planned)
        run = self._around.pool.submit(self._one, planned, tuple(self._outputs.values()), tuple(self._before), cancel, None)
        self._wait([run])
        result = run.result()
        self._finish(result)
        return not result.bad

    def _child(self, planned: PlannedStep) -> bool:
        """The steps of a child see nothing of the parent's artifacts and output variables; input variables are in its plan."""
        assert planned.child is not None
        outputs, before = dict(self._outputs), list(self._before)
        self._outputs, self._before = {}, []
        try:
            return self.run(planned.child)
        finally:
            self._outputs, self._before = outputs, before

    def _early(self, planned: PlannedStep) -> StepResult | None:
        """What is known without running it."""
        if planned.child is None and not self._selection.has(planned):
            self._before.append(planned.number)
            return _result(planned, "kept", "not asked for")
        decision = planned.decision
        if decision.verdict == "later":
            decision = self._decide(planned)
        if decision.verdict == "skip":
            self._around.terminal.line(f"{self._prefix(planned)}skipped: {visible(decision.reason)}")
            return _result(planned, "skipped", decision.reason)
        return None

    def _decide(self, planned: PlannedStep) -> Decision:
        variables = layer((*planned.variables.winners, *self._outputs.values()), planned.environment).values()
        with located(planned.span):
            decision = decide(planned.step.condition, self._changed, variables)
        if decision.verdict == "later":
            return Decision("skip", f"{decision.reason}, which no step has set")
        return decision

    def _finish(self, result: StepResult) -> None:
        self._add(result)
        self._leave(result)

    def _leave(self, result: StepResult) -> None:
        """Later steps see what it left."""
        if result.status == "passed":
            self._before.append(result.number)
            for name, value in result.outputs:
                self._outputs[name] = Variable(name, value, "output")

    def _add(self, result: StepResult) -> None:
        with self._lock:
            self.results.append(result)
        self._changed_results()

    def _not_run(self, item: PlannedItem, why: str, status: str = "not-run") -> None:
        for planned in _flat(item):
            self._add(_result(planned, status, why))

    def _prefix(self, planned: PlannedStep) -> str:
        name = f"{planned.number}. {visible(planned.name)}"
        return f"[{name:<{self._width}}] "


def _result(planned: PlannedStep, status: str, reason: str) -> StepResult:
    return StepResult(planned.number, visible(planned.name), status, reason=reason)


def _flat(item: PlannedItem) -> tuple[PlannedStep, ...]:
    if isinstance(item, PlannedStep):
        return (item,)
    if isinstance(item, PlannedGroup):
        return item.steps
    return tuple(step for inner in item.items for step in _flat(inner))


def every_step(plan: Plan) -> list[PlannedStep]:
    """Those that run scripts, children's too, in the order of their numbers."""
    found: list[PlannedStep] = []
    for planned in plan.steps():
        found += every_step(planned.child) if planned.child is not None else [planned]
    return sorted(found, key=lambda planned: planned.number)
