from __future__ import annotations

import pytest

from lamina.server.errors import BadRequest
from lamina.server.http.messages import Query, request


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("yes", True), ("", False), ("0", False), ("False", False), ("none", False)]
)
def test_flags_are_read_as_docker_reads_them(text: str, value: bool) -> None:
    assert Query(f"q={text}").flag("q") is value


def test_what_is_not_there_is_the_default() -> None:
    assert Query("").flag("q", True)
    assert Query("").integer("n", 7) == 7


def test_repeated_keys_keep_their_order() -> None:
    assert Query("t=a&t=b").all("t") == ["a", "b"]


def test_numbers_and_json_that_are_none_are_refused() -> None:
    with pytest.raises(BadRequest):
        Query("n=x").integer("n")
    with pytest.raises(BadRequest):
        Query("f=notjson").json("f", None)


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        request("POST", "/x", body).json()


def test_no_body_and_null_are_an_empty_object() -> None:
    assert request("POST", "/x").json() == {}
    assert request("POST", "/x", b"null").json() == {}


def test_a_huge_body_is_refused_without_reading_it_all() -> None:
    with pytest.raises(BadRequest, match="too large"):
        request("POST", "/x", b" " * (9 << 20)).json()


def test_halves_of_surrogate_pairs_are_no_text() -> None:
    """A container whose label held one could not be written to its record."""
    assert request("POST", "/", b'{"a\\uD800": ["\\udfff", "\\ud83d\\ude00"]}').json() == {"a\ufffd": ["\ufffd", "\U0001f600"]}
    assert Query("q=%7B%22a%22:%22%FF%22%7D").json("q", None) == {"a": "\ufffd"}
