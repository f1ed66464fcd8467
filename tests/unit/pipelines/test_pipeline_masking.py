from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.pipelines.masking import Masker


def stream(masker: Masker, pieces: list[bytes]) -> bytes:
    return b"".join(masker.feed(piece) for piece in pieces) + masker.close()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_value_in_pieces(cut: int) -> None:
    text = b"a hunter2 b\n"
    assert stream(Masker([("PW", "hunter2")]), [text[:cut], text[cut:]]) == b"a $PW b\n"


def test_byte_by_byte() -> None:
    assert stream(Masker([("PW", "hunter2")]), [bytes([byte]) for byte in b"xhunterhunter2hunter"]) == b"xhunter$PWhunter"


def test_the_longest_value_wins() -> None:
    masker = Masker([("SHORT", "abc"), ("LONG", "abcdef")])
    assert stream(masker, [b"abc", b"def abc", b"x"]) == b"$LONG $SHORTx"


def test_lines_of_a_value_are_masked_alone() -> None:
    masker = Masker([("KEY", "first line\nsecond line\n")])
    assert stream(masker, [b"first line\r\nsecond line\r\n"]) == b"$KEY\r\n$KEY\r\n"


def test_short_and_blank_values_are_left() -> None:
    assert stream(Masker([("A", "1"), ("B", ""), ("C", "    ")]), [b"1    1"]) == b"1    1"


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    masker = Masker([("PW", "hunter2")])
    assert masker.feed(b"prompt> ") == b"prompt> "
    assert masker.feed(b"hunt") == b""
    assert masker.feed(b"ing") == b"hunting"


def test_a_whole_text() -> None:
    masker = Masker([("PW", "hünter2")])
    assert masker.mask("x hünter2") == "x $PW"
    assert Masker([]).mask("x") == "x"


@given(st.lists(st.text("ab", min_size=3, max_size=6), min_size=1, max_size=4), st.text("abc", max_size=60), st.lists(st.integers(0, 60)))
def test_pieces_never_change_the_outcome(secrets: list[str], text: str, cuts: list[int]) -> None:
    named = [(f"N{index}", value) for index, value in enumerate(secrets)]
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b].encode() for a, b in pairwise(places)]
    whole = Masker(named).mask(text)
    assert stream(Masker(named), pieces).decode() == whole
    assert not any(value in whole for value in secrets)
