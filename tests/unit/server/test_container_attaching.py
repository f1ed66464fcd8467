from __future__ import annotations

import pytest

from lamina.server.containers.attaching import DetachKeys, content_type, detach_keys, framed
from lamina.server.errors import BadRequest


def test_frames_have_docker_s_head() -> None:
    assert framed(2, b"err") == b"\x02\0\0\0\0\0\0\x03err"


def test_framed_streams_are_called_so_from_1_42() -> None:
    assert content_type((1, 41), False).endswith("raw-stream")
    assert content_type((1, 42), False).endswith("multiplexed-stream")
    assert content_type((1, 42), True).endswith("raw-stream")


def test_the_detach_sequence_is_found_across_pieces_and_kept_from_the_container() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c") == (b"\x10c", False)
    assert keys.feed(b"\x10\x10\x11rest") == (b"\x10", True)


def test_without_a_terminal_nothing_is_held_back() -> None:
    assert DetachKeys(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


def test_sequences_are_read() -> None:
    assert detach_keys("") == b"\x10\x11"
    assert detach_keys("ctrl-a,x") == b"\x01x"
    with pytest.raises(BadRequest):
        detach_keys("ctrl-alt-del")
