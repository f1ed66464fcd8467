import threading
import time

from lamina.sandbox import protocols
from lamina.solver.cancel import CancelToken


def test_acts_are_called_once_in_order_and_late_ones_at_once() -> None:
    token, said = CancelToken(), list[str]()
    token.on_cancel(lambda: said.append("first"))
    withdraw = token.on_cancel(lambda: said.append("withdrawn"))
    token.on_cancel(lambda: said.append("second"))
    withdraw()
    assert not token.cancelled()
    token.cancel()
    token.cancel()
    assert token.cancelled()
    token.on_cancel(lambda: said.append("late"))()
    assert said == ["first", "second", "late"]


def test_an_act_that_raises_keeps_no_other_from_being_called() -> None:
    token, said = CancelToken(), list[str]()

    def bad() -> None:
        raise RuntimeError

    token.on_cancel(bad)
    token.on_cancel(lambda: said.append("called"))
    token.cancel()
    assert said == ["called"]


def test_a_child_is_cancelled_with_its_parent_and_not_the_other_way_round() -> None:
    parent = CancelToken()
    one, two = parent.child(), parent.child()
    one.cancel()
    assert not parent.cancelled()
    assert not two.cancelled()
    parent.cancel()
    assert two.cancelled()


def test_a_closed_child_leaves_its_parent() -> None:
    parent = CancelToken()
    child = parent.child()
    child.close()
    parent.cancel()
    assert not child.cancelled()


def test_a_deadline_cancels_who_asks_and_who_listens() -> None:
    assert CancelToken(deadline=time.monotonic() - 1).cancelled()
    heard = threading.Event()
    token = CancelToken().child(0.01)
    token.on_cancel(heard.set)
    assert heard.wait(90)
    assert token.cancelled()


def test_a_deadline_that_is_far_away() -> None:
    token = CancelToken().child(3600)
    token.on_cancel(lambda: None)
    assert not token.cancelled()
    token.close()


def test_it_is_the_token_that_a_sandbox_takes() -> None:
    token: protocols.CancelToken = CancelToken()  # checked by mypy: the solver does not import the sandbox
    assert not token.cancelled()
