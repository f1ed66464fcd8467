"""Earlier builds: which one is meant, which steps a selector means, what differs between two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.why import BuildNotFound, NoSuchStep, compare, find_build, find_steps, place_of, select, steps_of
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.digest import Digest
from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore

FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
IMAGE = Digest("sha256:" + "a" * 64)


def step(stage: int, name: str, index: int, line: int, text: str, **more: object) -> dict[str, Any]:
    return {
        "stage": stage,
        "stage_name": name,
        "index": index,
        "line": line,
        "text": text,
        "trigger": False,
        "key": text,
        "state": text,
        **more,
    }


STEPS = [
    step(0, "deps", 1, 1, "FROM base AS deps"),
    step(0, "deps", 2, 2, "RUN apt-get update"),
    step(0, "deps", 3, 3, "RUN apt-get  install git"),
    step(1, "", 1, 5, "FROM base"),
    step(1, "", 2, 7, "COPY --from=deps /a /a"),
]


def lines(selector: str) -> list[int]:
    return [found["line"] for found in select(STEPS, selector)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("deps", [1, 2, 3]),
        ("DEPS", [1, 2, 3]),
        ("1", [5, 7]),
        ("deps:3", [3]),
        ("0:3", [3]),
        ("1:2", [7]),
        ("RUN apt-get", [2, 3]),
        ("RUN   apt-get install", [3]),
        ("line 7", [7]),
        ("line:7", [7]),
    ],
)
def test_selectors(selector: str, expected: list[int]) -> None:
    """Those of --refresh. STAGE:N is the N of [stage N/M] and never a line, though line 7 is in stage 1."""
    assert lines(selector) == expected


@pytest.mark.parametrize("selector", ["1:7", "7", "line 4", "", "nothing"])
def test_what_selects_nothing(selector: str) -> None:
    with pytest.raises(NoSuchStep):
        select(STEPS, selector)


def test_a_misspelt_stage_has_a_hint() -> None:
    with pytest.raises(NoSuchStep) as caught:
        select(STEPS, "dpes")
    assert caught.value.hint == "did you mean 'deps'?"


def test_a_place_that_is_shown_selects_that_step() -> None:
    for found in STEPS:
        assert found in select(STEPS, place_of(found["stage"], found["stage_name"], found["index"], own=True))
    assert place_of(0, "deps", 3, own=False) == "deps"
    assert place_of(1, "", 0, own=True) == "1", "a step of a stage that is not needed"


def test_builds_of_an_older_version_have_no_numbers() -> None:
    old = [{k: v for k, v in found.items() if k != "index"} for found in STEPS]
    assert [found["line"] for found in select(old, "deps")] == [1, 2, 3]


def test_compare() -> None:
    before, after = STEPS, [dict(found) for found in STEPS]
    assert compare(before, after) == []
    after[1]["key"] = "other"
    after.pop(4)
    after.append(step(1, "", 2, 9, "RUN new"))
    found = [(c.before and c.before["line"], c.after and c.after["line"]) for c in compare(before, after)]
    assert found == [(2, 2), (7, None), (None, 9)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "s", FLAVOUR, now=lambda: 1000.0) as opened:
        yield opened


def log(store: LocalStore, name: str, created: float) -> None:
    store.builds.add(BuildLog(name, created, "Dockerfile", msgspec.Raw(msgspec.json.encode(STEPS)), None, (), (IMAGE,), 1.0, None))


def test_which_build(store: LocalStore) -> None:
    with pytest.raises(BuildNotFound):
        find_build(store, None)
    log(store, "20260101-000000-aaaaaa", 1.0)
    with pytest.raises(BuildNotFound):
        find_build(store, "previous")
    log(store, "20260102-000000-bbbbbb", 2.0)
    assert find_build(store, None).id == find_build(store, "last").id == "20260102-000000-bbbbbb"
    assert find_build(store, "previous").id == "20260101-000000-aaaaaa"
    assert find_build(store, "20260101").id == "20260101-000000-aaaaaa"
    assert steps_of(find_build(store, None)) == STEPS


def test_a_step_alone_is_one_of_the_last_build(store: LocalStore) -> None:
    with pytest.raises(LaminaError):
        find_steps(store, "deps", None)
    log(store, "20260101-000000-aaaaaa", 1.0)
    found, steps = find_steps(store, "deps:3", None)
    assert (found.id, [s["line"] for s in steps]) == ("20260101-000000-aaaaaa", [3])
    assert find_steps(store, None, None)[1] == STEPS
    assert [s["line"] for s in find_steps(store, "last", "line 7")[1]] == [7]


def test_what_is_no_build_no_image_and_no_step_is_called_an_image(store: LocalStore) -> None:
    log(store, "20260101-000000-aaaaaa", 1.0)
    with pytest.raises(LaminaError, match="nothing:1") as caught:
        find_steps(store, "nothing:1", None)
    assert not isinstance(caught.value, NoSuchStep)
    with pytest.raises(NoSuchStep):
        find_steps(store, "last", "nothing")
