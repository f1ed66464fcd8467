"""Tests of the scheduler speak its own language: send an event, expect these commands, no threads and no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lamina.solver.events import (
    Absent,
    Cancel,
    Done,
    Failed,
    Found,
    Identified,
    NeedsPresent,
    NotFound,
    Outcome,
    Present,
    Ran,
    Unknown,
    Want,
)
from lamina.solver.machine import Machine

if TYPE_CHECKING:
    from lamina.solver.events import Command, Event


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dot:
    """A node with a name and nothing else."""

    name: str
    inputs: tuple[Dot | None, ...] = field(default=())

    def __repr__(self) -> str:
        return self.name


def dot(name: str, *inputs: Dot | None) -> Dot:
    return Dot(name, inputs)


def chain(length: int) -> list[Dot]:
    """Dots that each stand on the one before; the last is the top."""
    dots: list[Dot] = []
    for number in range(length):
        dots.append(Dot(str(number), (dots[-1],) if dots else ()))
    return dots


class Playbook:
    """Drives a machine whose results are strings. Commands are compared in order, as short texts: "look up a:k"."""

    def __init__(self, machine: Machine[Dot, str] | None = None) -> None:
        self.machine: Machine[Dot, str] = machine or Machine()
        self.commands: list[Command[Dot, str]] = []
        self.outcome: Outcome[Dot, str] | None = None

    def send(self, event: Event[Dot, str]) -> Playbook:
        self.commands = self.machine.handle(event)
        for command in self.commands:
            if isinstance(command, Done):
                self.outcome = command.outcome
        return self

    def expect(self, *commands: Command[Dot, str]) -> Playbook:
        """Exactly these commands followed from the last event (Done is compared by kind only: use `expect_done`)."""
        assert self.commands == list(commands), f"\n     got {self.commands}\nexpected {list(commands)}"
        return self

    def expect_done(self, **status: str) -> Outcome[Dot, str]:
        """Done came, alone; statuses by name of the dot."""
        assert [type(c) for c in self.commands] == [Done], self.commands
        assert self.outcome is not None
        found = {e.node.name: e.status for e in self.outcome.ended}
        assert found == status or not status, found
        return self.outcome

    # The events, in words.

    def want(self, *targets: Dot, present: bool = True) -> Playbook:
        return self.send(Want(targets, present))

    def cancel(self) -> Playbook:
        return self.send(Cancel())

    def key(self, node: Dot, key: str) -> Playbook:
        return self.send(Identified(node, key))

    def pure(self, node: Dot, result: str) -> Playbook:
        return self.send(Identified(node, None, result))

    def needs(self, node: Dot, inputs: Sequence[Dot]) -> Playbook:
        return self.send(NeedsPresent(node, tuple(inputs)))

    def unknown(self, node: Dot) -> Playbook:
        return self.send(Unknown(node))

    def found(self, node: Dot, result: str) -> Playbook:
        return self.send(Found(node, result))

    def not_found(self, node: Dot, result: str | None = None) -> Playbook:
        return self.send(NotFound(node, result))

    def present(self, node: Dot) -> Playbook:
        return self.send(Present(node))

    def absent(self, node: Dot) -> Playbook:
        return self.send(Absent(node))

    def ran(self, node: Dot, result: str) -> Playbook:
        return self.send(Ran(node, result))

    def failed(self, node: Dot, error: BaseException) -> Playbook:
        return self.send(Failed(node, error))
