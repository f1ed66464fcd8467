"""Orders: what a step needs survives the journey; other versions get one clear line; secrets are shown by nothing."""

from __future__ import annotations

import msgspec
import pytest

from lamina.pipelines.choose import Start
from lamina.pipelines.load import load
from lamina.pipelines.plan import PlannedStep, Request, plan
from lamina.pipelines.remote.order import (
    FORMAT,
    BadOrder,
    Done,
    Login,
    Order,
    encode,
    order_step,
    planned_step,
    read_done,
    read_order,
)
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.runner import every_step
from lamina.pipelines.variables import Variable

FILE = """
image:
  name: registry.example/app:1
  username: $USER
  password: $PASSWORD
  run-as-user: 1000
definitions:
  caches:
    deps: {key: {files: [go.sum, "*/go.sum"]}, path: vendor}
  services:
    db: {image: postgres, memory: 512, variables: {A: $USER}}
pipelines:
  default:
    - parallel:
      - step:
          name: One
          size: 2x
          max-time: 7
          caches: [deps, node]
          services: [db, docker]
          output-variables: [X]
          script:
            - echo a
            - |
              b
              c
            - pipe: atlassian/x:1
              variables: {A: b, L: [c, d]}
          after-script: [echo z]
          artifacts:
            download: [one]
            paths: ["dist/**"]
            upload:
              - {name: t, type: test-reports, paths: [a], capture-on: always, depth: 2}
      - step: {script: [x], artifacts: {download: false}}
"""


def steps() -> list[PlannedStep]:
    given = (Variable("USER", "u"), Variable("PASSWORD", "hidden-word", "repository", secured=True))
    return every_step(plan(load(FILE, "f"), Request(start=Start("branch", "main"), variables=given)))


def order(planned: PlannedStep) -> Order:
    return Order(
        order_step(planned), 2, (Variable("O", "ä", "output"),), (1, 2), (), None, "", "p", "t", "dir:/x", {"T": "token-word"}, {},
        (Login("r", "u", "login-word"),), (), "", "auto", own_network=True, save_on_failure=False,
    )  # fmt: skip


def test_a_step_survives_the_journey() -> None:
    for planned in steps():
        sent = order(planned)
        came = read_order(encode(sent))
        assert came == sent
        again = planned_step(came.step)
        assert order_step(again) == sent.step
        assert (again.docker, again.pipes, again.memory) == (planned.docker, planned.pipes, planned.memory)
        assert again.variables.secrets() == planned.variables.secrets()
    first = planned_step(order(steps()[0]).step)
    assert first.image.password == "hidden-word"
    assert first.step.artifacts is not None
    assert first.step.artifacts.uploads[0].capture_on == "always"


def test_nothing_that_is_printed_has_a_secret_in_it() -> None:
    told = repr(order(steps()[0]).logins)
    assert "login-word" not in told


def test_another_form_is_one_clear_line() -> None:
    other = msgspec.json.encode({"format": FORMAT + 1, "lamina": "9.9", "step": 1})
    with pytest.raises(BadOrder, match=r"lamina 9\.9 in form 2; lamina .* here knows form 1"):
        read_order(other)
    with pytest.raises(BadOrder, match="was made by lamina 9"):
        read_done(other)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 1}', b"\xff", b'{"format": 1, "step": {"number": "x"}}'])
def test_what_is_no_order_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(BadOrder, match="cannot be read") as caught:
        read_order(data)
    assert "\n" not in caught.value.message


def test_a_text_that_is_no_unicode_is_refused_and_not_changed() -> None:
    sent = order(steps()[0])
    with pytest.raises(BadOrder, match="step 1 cannot travel: a text or a variable"):
        encode(msgspec.structs.replace(sent, given=(Variable("O", "\udcff"),)))


def test_answers_come_back() -> None:
    done = Done(StepResult(3, "x", "failed", 7, outputs=(("A", "b"),)))
    assert read_done(encode(done)) == done
