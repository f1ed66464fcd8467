from __future__ import annotations

import pytest

from lamina.server import filters
from lamina.server.errors import BadRequest
from lamina.server.http.messages import Query


@pytest.mark.parametrize("text", ['{"label":["a"]}', '{"label":{"a":true}}', '{"label":{"a":true,"b":false}}', '{"label":"a"}'])
def test_both_spellings(text: str) -> None:
    assert filters.parse(Query(f"filters={text}"), ("label",)) == {"label": ["a"]}


@pytest.mark.parametrize("text", ["notjson", "[]", '{"nope":["1"]}', '{"label":1}'])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        filters.parse(Query(f"filters={text}"), ("label",))


def test_labels_with_and_without_a_value() -> None:
    have = {"a": "1", "b": ""}
    assert filters.labels_match({"label": ["a", "b"]}, have)
    assert filters.labels_match({"label": ["a=1"]}, have)
    assert not filters.labels_match({"label": ["a=2"]}, have)
    assert not filters.labels_match({"label!": ["a"]}, have)
    assert not filters.labels_match({"label": ["a"]}, None)


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [("lamt/*", "lamt/b:latest", True), ("lamt/*:2", "lamt/a:2", True), ("lamt/*:2", "lamt/a:1", False), ("*", "lamt/a:1", False), ("busybox", "busybox:latest", True)],
)  # fmt: skip
def test_references(pattern: str, name: str, found: bool) -> None:
    assert filters.reference_matches(pattern, name) is found


def test_names_are_parts_or_expressions() -> None:
    assert filters.name_matches(["web"], "/my-web-1")
    assert filters.name_matches(["^/my"], "/my-web-1")
    assert not filters.name_matches(["^web"], "/my-web-1")
    assert filters.name_matches(["(", "web"], "/my-web-1")


def test_truth() -> None:
    assert filters.truth(["true"], "dangling")
    with pytest.raises(BadRequest):
        filters.truth(["maybe"], "dangling")
