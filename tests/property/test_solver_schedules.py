"""Any graph, any mixture of hits, misses, evictions, shared keys and failures, answers in any order."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.solver.events import (
    Absent,
    Cancel,
    Done,
    Failed,
    Found,
    Identified,
    Identify,
    LookUp,
    MakePresent,
    NeedsPresent,
    NotFound,
    Outcome,
    Present,
    Ran,
    Run,
    Share,
    Stop,
    Unknown,
    Want,
)
from lamina.solver.machine import Machine
from lamina.testing.playbook import Dot

if TYPE_CHECKING:
    from lamina.solver.events import Answer, Command, Task


class World:
    """Answers commands as some store and some Dockerfile would. What it gives back never depends on the order of commands."""

    def __init__(self, seed: int, size: int, jobs: int, *, fail: bool, plan: bool) -> None:
        self.random = random.Random(seed)
        chance = self.random.random
        self.nodes: list[Dot] = []
        for number in range(size):
            inputs = self.random.sample(self.nodes, min(len(self.nodes), self.random.choice([0, 0, 1, 1, 2, 3])))
            self.nodes.append(Dot(str(number), (*inputs, None) if chance() < 0.1 else tuple(inputs)))
        self.pure = {n.name for n in self.nodes if chance() < 0.2}
        self.needs = {n.name for n in self.nodes if chance() < 0.2}
        self.twin = {n.name: self.random.choice(["A", "B"]) for n in self.nodes if chance() < 0.6}
        self.known = {n.name for n in self.nodes if chance() < 0.4}
        self.gone = {n.name for n in self.nodes if chance() < 0.5}
        self.unstable = {n.name for n in self.nodes if chance() < 0.5}
        self.broken = {n.name for n in self.nodes if fail and chance() < 0.1}
        self.plan = plan
        self.jobs = jobs
        self.machine: Machine[Dot, str] = Machine(jobs, "plan" if plan else "build")
        self.open: list[Task[Dot, str]] = []
        self.ran: Counter[str] = Counter()
        self.ran_keys: Counter[str] = Counter()
        self.present: set[str] = set()
        self.results: set[str] = set()
        self.stopped = False
        self.outcome: Outcome[Dot, str] | None = None

    def take(self, commands: list[Command[Dot, str]]) -> None:
        for command in commands:
            assert self.outcome is None, "nothing comes after Done"
            if isinstance(command, Done):
                assert not self.open
                self.outcome = command.outcome
            elif isinstance(command, Stop):
                assert not self.stopped
                self.stopped = True
            else:
                assert not self.stopped, "nothing new after Stop"
                self.check(command)
                self.open.append(command)
        assert sum(isinstance(c, Run) for c in self.open) <= self.jobs
        assert len({c.node.name for c in self.open}) == len(self.open), "one command at a time for a node"

    def check(self, command: Task[Dot, str]) -> None:
        inputs = [i for i in command.node.inputs if i is not None]
        if isinstance(command, Identify):
            assert all(i.name in self.results for i in inputs)
        if isinstance(command, Run):
            assert not self.plan
            assert all(i.name in self.present for i in inputs)
            self.ran[command.node.name] += 1
            self.ran_keys[command.key] += 1
        if isinstance(command, MakePresent):
            assert not self.plan

    def key(self, node: Dot, inputs: tuple[str | None, ...]) -> str:
        return self.twin.get(node.name, node.name) + "(" + ",".join(str(i) for i in inputs) + ")"

    def answer(self, command: Task[Dot, str]) -> Answer[Dot, str]:
        node = command.node
        answer = self._answer(command)
        if isinstance(answer, Found | Ran) or (isinstance(answer, Identified) and answer.key is None):
            self.results.add(node.name)
        if isinstance(answer, NotFound) and answer.result is not None:
            self.results.add(node.name)
        if isinstance(answer, Present | Ran) or isinstance(command, Share):
            self.present.add(node.name)
        return answer

    def _answer(self, command: Task[Dot, str]) -> Answer[Dot, str]:
        node = command.node
        if node.name in self.broken and isinstance(command, Run | Identify):
            return Failed(node, RuntimeError(node.name))
        match command:
            case Identify(_, inputs):
                missing = tuple(i for i in node.inputs if i is not None and i.name not in self.present)
                if node.name in self.needs and missing:
                    return Unknown(node) if self.plan and self.random.random() < 0.5 else NeedsPresent(node, missing[:1])
                key = self.key(node, inputs)
                return Identified(node, None, "=" + key) if node.name in self.pure else Identified(node, key)
            case LookUp(_, key):
                if node.name in self.known:
                    return Found(node, "record of " + key)
                return NotFound(node, "stand-in" if self.plan and self.random.random() < 0.5 else None)
            case MakePresent():
                gone = node.name in self.gone
                inputs_present = all(i is None or i.name in self.present for i in node.inputs)
                if node.name in self.pure:
                    return Absent(node) if gone and not inputs_present else Present(node)
                return Absent(node) if gone else Present(node)
            case Run(_, key):
                return Ran(node, ("new " if node.name in self.unstable else "record of ") + key)
            case Share(_, _, result):
                return Found(node, result)


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 14).map(lambda n: 15 - n),
    jobs=st.integers(1, 3),
    fail=st.sampled_from([False, False, True]),
    plan=st.sampled_from([False, False, False, True]),
    present=st.booleans(),
    cancel_after=st.none() | st.integers(0, 20),
)
def test_every_schedule_ends(seed: int, size: int, jobs: int, fail: bool, plan: bool, present: bool, cancel_after: int | None) -> None:
    world = World(seed, size, jobs, fail=fail, plan=plan)
    targets = tuple(world.random.sample(world.nodes, world.random.randint(1, (size + 1) // 2)))
    world.take(world.machine.handle(Want(targets, present)))
    steps = 0
    while world.outcome is None:
        assert world.open, "deadlock"
        if steps == cancel_after:
            world.take(world.machine.handle(Cancel()))
        command = world.open.pop(world.random.randrange(len(world.open)))
        world.take(world.machine.handle(world.answer(command)))
        steps += 1
        assert steps < 100 * size + 100
    outcome = world.outcome
    ended = {e.node.name: e for e in outcome.ended}
    assert len(ended) == len(outcome.ended), "each node ends once"
    order = [e.node.name for e in outcome.ended]
    for e in outcome.ended:
        assert all(order.index(i.name) < order.index(e.node.name) for i in e.node.inputs if i is not None)
    assert not [name for name, times in world.ran.items() if times > 1], "nothing runs twice"
    assert not [key for key, times in world.ran_keys.items() if times > 1], "no key runs twice"
    if plan:
        assert not world.ran
    elif outcome.ok:
        for target in targets:
            assert ended[target.name].status in ("pure", "hit", "shared", "ran")
            assert not present or target.name in world.present
        # A result that something ran upon is the one that its key was made from.
        for e in outcome.ended:
            if e.status == "ran":
                seen = tuple(None if i is None else ended[i.name].result for i in e.node.inputs)
                assert e.key == world.key(e.node, seen)
    assert (outcome.error is None) == (outcome.failed is None)
    assert not outcome.error or fail
