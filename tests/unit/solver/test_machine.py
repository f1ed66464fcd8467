import pytest

from lamina.solver.events import Found, Identify, LookUp, MakePresent, Ran, Run, Share, Stop
from lamina.solver.machine import Machine, SolverFault
from lamina.testing.playbook import Dot, Playbook, chain, dot


def based(jobs: int = 4) -> tuple[Playbook, Dot, Dot]:
    """A base and a step on it whose key is known and looked up."""
    base = dot("base")
    step = dot("step", base)
    play = Playbook(Machine(jobs))
    play.want(step).expect(Identify(base, ()))
    play.pure(base, "B").expect(Identify(step, ("B",)))
    play.key(step, "k").expect(LookUp(step, "k", ("B",)))
    return play, base, step


def test_a_hit_is_made_present_only_because_it_is_exported() -> None:
    play, _base, step = based()
    play.found(step, "S").expect(MakePresent(step, "k", "S"))
    outcome = play.present(step).expect_done(base="pure", step="hit")
    assert outcome.ok
    assert outcome.of(step).result == "S"


def test_a_target_without_export_needs_no_files() -> None:
    top = dot("top")
    play = Playbook()
    play.want(top, present=False).expect(Identify(top, ()))
    play.key(top, "k").expect(LookUp(top, "k", ()))
    play.found(top, "T").expect_done(top="hit")


def test_a_miss_runs_on_a_base_made_present_first() -> None:
    play, base, step = based()
    play.not_found(step).expect(MakePresent(base, None, "B"))
    play.present(base).expect(Run(step, "k", ("B",)))
    play.ran(step, "S").expect_done(base="pure", step="ran")


def test_layers_below_a_hit_are_left_alone() -> None:
    dots = chain(3)
    play = Playbook()
    play.want(dots[2], present=False)
    for number, node in enumerate(dots[:2]):
        play.key(node, f"k{number}")
        play.found(node, f"r{number}").expect(Identify(dots[number + 1], (f"r{number}",)))
    play.key(dots[2], "k2")
    play.not_found(dots[2]).expect(MakePresent(dots[1], "k1", "r1"))
    play.present(dots[1]).expect(Run(dots[2], "k2", ("r1",)))
    play.ran(dots[2], "r2").expect_done()


def test_an_evicted_input_runs_itself_and_its_dependant_is_identified_again() -> None:
    dots = chain(3)
    play = Playbook()
    play.want(dots[2], present=False)
    for number in (0, 1):
        play.key(dots[number], f"k{number}")
        play.found(dots[number], f"r{number}")
    play.key(dots[2], "k2")
    play.not_found(dots[2])
    play.absent(dots[1]).expect(MakePresent(dots[0], "k0", "r0"))
    play.absent(dots[0]).expect(Run(dots[0], "k0", (), evicted=True))
    play.ran(dots[0], "other").expect(Identify(dots[1], ("other",)))
    play.key(dots[1], "k1b").expect(LookUp(dots[1], "k1b", ("other",)))
    play.not_found(dots[1]).expect(Run(dots[1], "k1b", ("other",)))
    play.ran(dots[1], "r1b").expect(Identify(dots[2], ("r1b",)))
    play.key(dots[2], "k2b").expect(LookUp(dots[2], "k2b", ("r1b",)))
    play.found(dots[2], "r2b").expect_done(**{"0": "ran", "1": "ran", "2": "hit"})


def test_a_reproducible_rerun_of_an_evicted_input_brings_its_dependants_files_back() -> None:
    dots = chain(2)
    play = Playbook()
    play.want(dots[1])
    play.key(dots[0], "k0")
    play.found(dots[0], "r0")
    play.key(dots[1], "k1")
    play.found(dots[1], "r1").expect(MakePresent(dots[1], "k1", "r1"))
    play.absent(dots[1]).expect(MakePresent(dots[0], "k0", "r0"))
    play.absent(dots[0])
    play.ran(dots[0], "r0").expect(Identify(dots[1], ("r0",)))
    play.key(dots[1], "k1").expect(LookUp(dots[1], "k1", ("r0",)))
    play.found(dots[1], "r1").expect(MakePresent(dots[1], "k1", "r1"))
    play.absent(dots[1]).expect(Run(dots[1], "k1", ("r0",), evicted=True))
    play.ran(dots[1], "r1").expect_done()


def test_a_pure_node_that_is_absent_is_asked_again_when_its_inputs_are_there() -> None:
    left, right = dot("left"), dot("right")
    merge = dot("merge", left, right)
    play = Playbook()
    play.want(merge).expect(Identify(left, ()), Identify(right, ()))
    for node in (left, right):
        play.key(node, node.name)
        play.found(node, node.name.upper())
    play.pure(merge, "M").expect(MakePresent(merge, None, "M"))
    play.absent(merge).expect(MakePresent(left, "left", "LEFT"), MakePresent(right, "right", "RIGHT"))
    play.present(left).expect()
    play.present(right).expect(MakePresent(merge, None, "M"))
    play.present(merge).expect_done(left="hit", right="hit", merge="pure")


def test_a_pure_node_that_stays_absent_fails() -> None:
    top = dot("top")
    play = Playbook()
    play.want(top)
    play.pure(top, "T")
    play.absent(top).expect(MakePresent(top, None, "T"))
    outcome = play.absent(top).expect_done(top="failed")
    assert isinstance(outcome.error, SolverFault)


def test_a_key_that_needs_files_waits_for_just_those_inputs() -> None:
    stage, base = dot("stage"), dot("base")
    copy = dot("copy", base, stage)
    play = Playbook()
    play.want(copy, present=False)
    play.key(stage, "ks")
    play.found(stage, "S")
    play.pure(base, "B").expect(Identify(copy, ("B", "S")))
    play.needs(copy, [stage]).expect(MakePresent(stage, "ks", "S"))
    play.present(stage).expect(Identify(copy, ("B", "S")))
    play.key(copy, "kc")
    play.found(copy, "C").expect_done()


def test_asking_for_files_that_are_there_is_a_fault_and_no_endless_loop() -> None:
    stage = dot("stage")
    copy = dot("copy", stage)
    play = Playbook()
    play.want(copy, present=False)
    play.key(stage, "ks")
    play.not_found(stage)
    play.ran(stage, "S")
    outcome = play.needs(copy, [stage]).expect_done(stage="ran", copy="failed")
    assert isinstance(outcome.error, SolverFault)


def test_equal_keys_run_once_and_the_second_shares() -> None:
    one, two = dot("one"), dot("two")
    top = dot("top", one, two)
    play = Playbook()
    play.want(top, present=False)
    play.key(one, "same")
    play.key(two, "same")
    play.not_found(one).expect(Run(one, "same", ()))
    play.not_found(two).expect()
    play.ran(one, "R").expect(Share(two, "same", "R", one))
    play.send(Found(two, "R")).expect(Identify(top, ("R", "R")))
    play.pure(top, "T").expect_done(one="ran", two="shared", top="pure")


def test_a_key_that_ran_earlier_in_the_build_is_shared_even_by_a_forced_node() -> None:
    one = dot("one")
    two = dot("two", one)
    play = Playbook()
    play.want(two)
    play.key(one, "same")
    play.not_found(one)
    play.ran(one, "R").expect(Identify(two, ("R",)))
    play.key(two, "same")
    play.not_found(two).expect(Share(two, "same", "R", one))
    play.found(two, "R").expect_done(one="ran", two="shared")


def test_an_owner_is_never_a_node_that_waits_for_its_sharer() -> None:
    # Both have one key, the second stands on the first, and the files of both are gone.
    one = dot("one")
    two = dot("two", one)
    play = Playbook()
    play.want(two)
    play.key(one, "same")
    play.found(one, "R")
    play.key(two, "same")
    play.found(two, "R").expect(MakePresent(two, "same", "R"))
    play.absent(two).expect(MakePresent(one, "same", "R"))
    play.absent(one).expect(Run(one, "same", (), evicted=True))
    play.ran(one, "R").expect(Identify(two, ("R",)))
    play.key(two, "same")
    play.not_found(two).expect(Share(two, "same", "R", one))
    play.found(two, "R").expect_done()


def test_no_more_runs_than_jobs_and_the_next_follows_in_order() -> None:
    leaves = [dot(f"leaf{n}") for n in range(3)]
    top = dot("top", *leaves)
    play = Playbook(Machine(2))
    play.want(top, present=False)
    for leaf in leaves:
        play.key(leaf, leaf.name)
    play.not_found(leaves[2]).expect(Run(leaves[2], "leaf2", ()))
    play.not_found(leaves[0]).expect(Run(leaves[0], "leaf0", ()))
    play.not_found(leaves[1]).expect()
    play.ran(leaves[0], "L").expect(Run(leaves[1], "leaf1", ()))


def test_an_input_named_twice_counts_once() -> None:
    stage = dot("stage")
    top = dot("top", stage, None, stage)
    play = Playbook()
    play.want(top, present=False).expect(Identify(stage, ()))
    play.pure(stage, "S").expect(Identify(top, ("S", None, "S")))
    play.key(top, "k")
    play.not_found(top).expect(MakePresent(stage, None, "S"))
    play.present(stage).expect(Run(top, "k", ("S", None, "S")))
    play.ran(top, "T").expect_done()


def test_a_failure_stops_the_rest_and_waits_for_what_is_under_way() -> None:
    bad, good, later = dot("bad"), dot("good"), dot("later")
    top = dot("top", bad, good, later)
    play = Playbook(Machine(2))
    play.want(top, present=False)
    for node in (bad, good, later):
        play.key(node, node.name)
        play.not_found(node)
    error = RuntimeError("exit 1")
    play.failed(bad, error).expect(Stop())
    outcome = play.ran(good, "G").expect_done(bad="failed", good="ran", later="waiting", top="waiting")
    assert outcome.failed is bad
    assert outcome.error is error
    assert not outcome.ok


def test_a_sibling_that_fails_because_it_was_cancelled_is_not_the_cause() -> None:
    bad, good = dot("bad"), dot("good")
    top = dot("top", bad, good)
    play = Playbook()
    play.want(top, present=False)
    for node in (bad, good):
        play.key(node, node.name)
        play.not_found(node)
    play.failed(bad, RuntimeError("first")).expect(Stop())
    outcome = play.failed(good, RuntimeError("killed")).expect_done(bad="failed", good="cancelled", top="waiting")
    assert str(outcome.error) == "first"


def test_cancel_ends_when_all_is_answered() -> None:
    play, _base, step = based()
    play.cancel().expect(Stop())
    outcome = play.not_found(step).expect_done(base="pure", step="waiting")
    assert outcome.cancelled
    assert not outcome.ok


def test_cancel_before_anything_started() -> None:
    top = dot("top")
    play = Playbook()
    play.cancel().expect()
    assert play.want(top).expect_done(top="waiting").cancelled


def test_no_targets_no_work() -> None:
    assert Playbook().want().expect_done().ok


def test_a_plan_runs_nothing_and_says_what_it_cannot_know() -> None:
    base = dot("base")
    miss = dot("miss", base)
    above = dot("above", miss)
    other = dot("other", base)
    top = dot("top", above, other)
    play = Playbook(Machine(mode="plan"))
    play.want(top)
    play.pure(base, "B").expect(Identify(miss, ("B",)), Identify(other, ("B",)))
    play.key(miss, "km")
    play.key(other, "ko")
    play.not_found(miss).expect()
    play.found(other, "O").expect_done(base="pure", miss="missed", above="unknown", other="hit", top="unknown")


def test_a_plan_goes_on_behind_a_miss_with_a_stand_in_result() -> None:
    miss = dot("miss")
    above = dot("above", miss)
    top = dot("top", above)
    play = Playbook(Machine(mode="plan"))
    play.want(top)
    play.key(miss, "km")
    play.not_found(miss, "stand-in").expect(Identify(above, ("stand-in",)))
    play.unknown(above).expect_done(miss="missed", above="unknown", top="unknown")


def test_a_plan_makes_nothing_present() -> None:
    stage = dot("stage")
    copy = dot("copy", stage)
    play = Playbook(Machine(mode="plan"))
    play.want(copy)
    play.key(stage, "k")
    play.found(stage, "S")
    play.needs(copy, [stage]).expect_done(stage="hit", copy="unknown")


def test_an_answer_that_nobody_asked_for_is_a_fault() -> None:
    play, _base, step = based()
    with pytest.raises(SolverFault, match="Ran is no answer to a node that is looking"):
        play.send(Ran(step, "S"))
    with pytest.raises(SolverFault, match="not in the graph"):
        play.send(Ran(dot("stranger"), "S"))
    with pytest.raises(SolverFault, match="twice"):
        play.want(step)


class Knot:
    def __init__(self) -> None:
        self.inputs: tuple[Knot, ...] = (self,)


def test_a_cycle_is_a_fault_and_no_hang() -> None:
    from lamina.solver.events import Want

    machine: Machine[Knot, str] = Machine()
    with pytest.raises(SolverFault, match="cycle"):
        machine.handle(Want((Knot(),)))


def test_ten_thousand_steps_one_upon_the_other() -> None:
    dots = chain(10_000)
    play = Playbook()
    play.want(dots[-1])
    for node in dots:
        play.key(node, node.name)
        play.found(node, node.name)
    # All files are gone: everything runs again, from the bottom.
    for node in reversed(dots):
        play.absent(node)
    for node in dots:
        if node is not dots[0]:
            play.key(node, node.name)
            play.not_found(node)
        play.ran(node, node.name)
    assert {e.status for e in play.expect_done().ended} == {"ran"}
