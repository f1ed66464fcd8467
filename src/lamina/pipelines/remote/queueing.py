"""Which job begins next, and on which machine. Pure; not safe for threads."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lamina.pipelines.remote.cluster import Needs


class Machine(msgspec.Struct, frozen=True):
    """A worker. `memory` in MB; `slots`: how many jobs it takes at once, whatever they need."""

    name: str
    memory: int
    cpus: float
    slots: int
    labels: frozenset[str] = frozenset()


class Placed(msgspec.Struct, frozen=True):
    ticket: int
    machine: str


class _Waiting(msgspec.Struct):
    ticket: int
    needs: Needs
    priority: int
    reserved: str = ""


class Queue:
    """Jobs in the order of priority, then of arrival. A job that no machine has room for now keeps one for itself: those behind it begin elsewhere, or wait. So nothing waits
    forever behind smaller jobs."""

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._waiting: list[_Waiting] = []
        self._running: dict[int, tuple[str, Needs]] = {}
        self._priorities: dict[int, int] = {}
        self._next = 0

    def machines(self, now: Iterable[Machine]) -> None:
        """The machines that there are; jobs on others keep their place in the books until they are freed."""
        self._machines = {machine.name: machine for machine in now}

    def add(self, needs: Needs, priority: int) -> int:
        """The ticket."""
        self._next += 1
        self._priorities[self._next] = priority
        self._enter(_Waiting(self._next, needs, priority))
        return self._next

    def free(self, ticket: int) -> None:
        """The job has ended, or shall not begin. Unknown tickets are fine."""
        self._waiting = [job for job in self._waiting if job.ticket != ticket]
        self._running.pop(ticket, None)
        self._priorities.pop(ticket, None)

    def again(self, ticket: int) -> None:
        """A job that was placed and did not begin waits again, where it stood."""
        if ticket in self._running:
            self._enter(_Waiting(ticket, self._running.pop(ticket)[1], self._priorities[ticket]))

    def place(self) -> list[Placed]:
        """What begins now, in this order; it is in the books from now on."""
        placed: list[Placed] = []
        kept: set[str] = set()
        still: list[_Waiting] = []
        for job in self._waiting:
            could = [machine for machine in self._machines.values() if not _lacks(machine, job.needs)]
            now = [machine for machine in could if machine.name not in kept and self._has_room(machine, job.needs)]
            if now:
                best = max(now, key=lambda machine: (-len(machine.labels - {job.needs.label}), self._share_free(machine), machine.name))
                self._running[job.ticket] = (best.name, job.needs)
                placed.append(Placed(job.ticket, best.name))
                continue
            still.append(job)
            left = {machine.name: machine for machine in could if machine.name not in kept}
            if left:
                if job.reserved not in left:
                    job.reserved = max(left.values(), key=lambda machine: (self._share_free(machine), machine.name)).name
                kept.add(job.reserved)
        self._waiting = still
        return placed

    def why_not(self, needs: Needs) -> str:
        """Empty, or why none of the machines could ever take it."""
        if not self._machines:
            return "no worker is connected"
        lacks = [_lacks(machine, needs) for machine in self._machines.values()]
        if not all(lacks):
            return ""
        if needs.label and not any(needs.label in machine.labels for machine in self._machines.values()):
            there = sorted({label for machine in self._machines.values() for label in machine.labels})
            return f"no worker has the label {needs.label}" + (f" (there are: {', '.join(there)})" if there else "")
        asked = f"{needs.memory} MB and {needs.cpus:g} CPUs" + (f" with the label {needs.label}" if needs.label else "")
        largest = max(
            (machine for machine in self._machines.values() if not needs.label or needs.label in machine.labels),
            key=lambda machine: (machine.memory, machine.cpus),
        )
        return f"no worker has {asked}; the largest, {largest.name}, has {largest.memory} MB and {largest.cpus:g} CPUs"

    def waiting(self) -> int:
        return len(self._waiting)

    def _enter(self, job: _Waiting) -> None:
        self._waiting.append(job)
        self._waiting.sort(key=lambda each: (-each.priority, each.ticket))

    def _has_room(self, machine: Machine, needs: Needs) -> bool:
        memory, cpus, slots = self._left(machine)
        return slots >= 1 and memory >= needs.memory and cpus >= _thousandths(needs.cpus)

    def _left(self, machine: Machine) -> tuple[int, int, int]:
        """MB, thousandths of CPUs, slots."""
        there = [needs for name, needs in self._running.values() if name == machine.name]
        cpus = _thousandths(machine.cpus) - sum(_thousandths(needs.cpus) for needs in there)
        return machine.memory - sum(needs.memory for needs in there), cpus, machine.slots - len(there)

    def _share_free(self, machine: Machine) -> float:
        memory, cpus, slots = self._left(machine)
        return min(memory / max(machine.memory, 1), cpus / max(_thousandths(machine.cpus), 1), slots / max(machine.slots, 1))


def _lacks(machine: Machine, needs: Needs) -> bool:
    return (
        machine.slots < 1
        or machine.memory < needs.memory
        or _thousandths(machine.cpus) < _thousandths(needs.cpus)
        or bool(needs.label and needs.label not in machine.labels)
    )


def _thousandths(cpus: float) -> int:
    return round(cpus * 1000)
