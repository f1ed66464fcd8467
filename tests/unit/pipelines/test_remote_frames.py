"""Frames: cut anywhere, whole again; what is none is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.pipelines.remote.frames import KINDS, BadFrame, Frame, Frames, Kind, frame

FRAMES = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.binary(max_size=40)), max_size=10)


@given(FRAMES, st.lists(st.integers(0, 500), max_size=20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(kind, body) for kind, body in frames)
    reader = Frames()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = [one for begin, end in itertools.pairwise(places) for one in reader.feed(data[begin:end])]
    assert found == [Frame(kind, body) for kind, body in frames]
    assert reader.last == next((body for kind, body in reversed(frames) if kind == "result"), b"")


@pytest.mark.parametrize("data", [b"Traceback (most recent call last):\n", b"L\xff\xff\xff\xff"])
def test_what_no_job_of_lamina_prints_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame, match="no message of lamina"):
        Frames().feed(data)
