"""Which records a selector means, and forgetting them."""

from __future__ import annotations

import pytest

from lamina.cache.record import CacheKey, KeyParts, Place, Record
from lamina.engine.cacheadmin import NothingSelected, forget, selected
from lamina.oci.digest import Digest, StateId


def record(stage: str, position: int, line: int, text: str) -> Record:
    return Record(
        key=CacheKey(f"sha256:{stage}{position}"), parts=KeyParts(schema=1, op={}, inputs=()),
        place=Place(dockerfile="Dockerfile", stage=stage, position=position, line=line, text=text),
        state=StateId("s"), layers=(), diff=Digest("sha256:d"), created=1.0, seconds=1.0, host="h", build="b",
    )  # fmt: skip


RECORDS = [
    record("deps", 2, 2, "RUN apt-get update"),
    record("deps", 3, 9, "RUN make"),
    record("1", 2, 12, "COPY a /a"),
    record("", 0, 0, "heredoc"),
]


@pytest.mark.parametrize(
    ("selector", "lines"),
    [("deps", [2, 9]), ("Deps", [2, 9]), ("deps:3", [9]), ("1", [12]), ("1:2", [12]), ("RUN make", [9]), ("RUN", [2, 9])],
)
def test_selected(selector: str, lines: list[int]) -> None:
    assert [found.place.line for found in selected(RECORDS, selector)] == lines


@pytest.mark.parametrize(("selector", "hint"), [("dpes", "did you mean 'deps'?"), ("deps:9", None), ("", None)])
def test_nothing_is_selected(selector: str, hint: str | None) -> None:
    with pytest.raises(NothingSelected) as caught:
        selected(RECORDS, selector)
    if hint is not None:
        assert caught.value.hint == hint


class Records:
    def __init__(self) -> None:
        self.forgotten: list[CacheKey] = []

    def records(self) -> list[Record]:
        return RECORDS

    def forget(self, keys: list[CacheKey]) -> int:
        self.forgotten += keys
        return len(keys)


def test_forget_takes_each_key_once() -> None:
    records = Records()
    assert forget(records, ["deps", "RUN make"]) == 2  # type: ignore[arg-type]  # the part of LocalRecords that is used
    assert records.forgotten == ["sha256:deps2", "sha256:deps3"]


def test_forget_everything_and_nothing_by_a_mistake() -> None:
    records = Records()
    assert forget(records, [], everything=True) == 4  # type: ignore[arg-type]  # as above
    records = Records()
    with pytest.raises(NothingSelected):
        forget(records, ["deps", "wrong"])  # type: ignore[arg-type]  # as above
    assert records.forgotten == []
