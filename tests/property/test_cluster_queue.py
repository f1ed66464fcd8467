"""The queue of clusters: no machine is overfilled, the order is that of priorities, nothing waits forever."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from lamina.pipelines.remote.cluster import Needs
from lamina.pipelines.remote.queueing import Machine, Queue

LABELS = ("", "gpu", "arm")
NEEDS = st.builds(Needs, st.integers(0, 4000), st.sampled_from((0.0, 0.1, 0.5, 1.0, 2.0, 4.0)), st.sampled_from(LABELS))
MACHINES = st.lists(
    st.builds(
        lambda memory, cpus, slots, labels: (memory, cpus, slots, frozenset(labels)),
        st.integers(0, 4000),
        st.sampled_from((0.3, 1.0, 2.0, 4.0)),
        st.integers(0, 4),
        st.sets(st.sampled_from(LABELS[1:])),
    ),
    min_size=1,
    max_size=4,
).map(lambda found: [Machine(f"m{number}", *each) for number, each in enumerate(found)])
JOBS = st.lists(st.tuples(NEEDS, st.integers(-2, 2)), max_size=14)


def could(machine: Machine, needs: Needs) -> bool:
    return (
        machine.slots > 0
        and needs.memory <= machine.memory
        and needs.cpus <= machine.cpus
        and (not needs.label or needs.label in machine.labels)
    )


def must_have_room(machines: list[Machine], running: dict[int, str], jobs: dict[int, tuple[Needs, int]]) -> None:
    for machine in machines:
        there = [jobs[ticket][0] for ticket, name in running.items() if name == machine.name]
        assert sum(needs.memory for needs in there) <= machine.memory
        assert round(sum(needs.cpus for needs in there), 6) <= machine.cpus
        assert len(there) <= machine.slots
        assert all(could(machine, needs) for needs in there)


@given(MACHINES, JOBS, st.randoms(use_true_random=False))
def test_every_job_that_could_run_does_and_no_machine_is_overfilled(
    machines: list[Machine], asked: list[tuple[Needs, int]], chance: random.Random
) -> None:
    queue = Queue()
    queue.machines(machines)
    jobs: dict[int, tuple[Needs, int]] = {}
    running: dict[int, str] = {}
    seen: set[int] = set()
    left = list(asked)
    while True:
        for _ in range(chance.randint(0, 3)):
            if left:
                needs, priority = left.pop(0)
                jobs[queue.add(needs, priority)] = (needs, priority)
        for placed in queue.place():
            assert placed.ticket not in running
            running[placed.ticket] = placed.machine
            seen.add(placed.ticket)
        must_have_room(machines, running, jobs)
        assert not queue.place()
        if running:
            ticket = chance.choice(sorted(running))
            del running[ticket]
            if chance.random() < 0.2:
                queue.again(ticket)
                seen.discard(ticket)
            else:
                queue.free(ticket)
        elif not left:
            break
    for ticket, (needs, _) in jobs.items():
        runs = any(could(machine, needs) for machine in machines)
        assert (ticket in seen) == runs
        assert (queue.why_not(needs) == "") == runs
    assert queue.waiting() == len(jobs) - len(seen)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10))
def test_on_one_machine_the_order_is_that_of_priorities_then_of_arrival(priorities: list[int]) -> None:
    queue = Queue()
    queue.machines([Machine("only", 1000, 1.0, 1)])
    tickets = {queue.add(Needs(10, 0.1), priority): priority for priority in priorities}
    order: list[int] = []
    while found := queue.place():
        assert len(found) == 1
        order.append(found[0].ticket)
        queue.free(found[0].ticket)
    assert order == sorted(tickets, key=lambda ticket: (-tickets[ticket], ticket))


@given(st.integers(1, 30))
def test_a_large_job_does_not_wait_behind_small_ones_for_ever(number: int) -> None:
    """However many small ones come after it: the machine that it needs is not given to them."""
    queue = Queue()
    queue.machines([Machine("a", 1000, 4.0, 8), Machine("b", 1000, 4.0, 8)])
    small = [queue.add(Needs(300, 1), 0) for _ in range(4)]
    assert {placed.ticket for placed in queue.place()} == set(small)
    large = queue.add(Needs(1000, 1), 0)
    for _ in range(number):
        queue.add(Needs(300, 1), 0)
    assert large not in {placed.ticket for placed in queue.place()}
    begun: list[int] = []
    for ticket in small:
        queue.free(ticket)
        begun += [placed.ticket for placed in queue.place()]
    assert large in begun


def test_a_machine_that_goes_takes_its_reservation_along() -> None:
    queue = Queue()
    one, other = Machine("one", 1000, 1.0, 1), Machine("other", 1000, 1.0, 1)
    queue.machines([one])
    first, second = queue.add(Needs(1000, 1), 0), queue.add(Needs(1000, 1), 0)
    assert [placed.ticket for placed in queue.place()] == [first]
    queue.machines([other])
    assert [(placed.ticket, placed.machine) for placed in queue.place()] == [(second, "other")]
    queue.machines([])
    assert queue.why_not(Needs(1, 1)) == "no worker is connected"
