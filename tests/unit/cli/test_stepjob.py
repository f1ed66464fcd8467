"""`lamina pipeline step-job` before any step: one answer in a frame, nothing else on standard output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lamina.pipelines.remote.frames import Frames
from lamina.pipelines.remote.order import Done, Order, OrderedImage, OrderedStep, encode, read_done
from lamina.pipelines.resources import Memory


def answer(tmp_path: Path, data: bytes) -> Done:
    command = [sys.executable, "-m", "lamina", "--root", str(tmp_path / "store"), "pipeline", "step-job"]
    done = subprocess.run(command, input=data, capture_output=True, check=False, env={"PATH": os.environ["PATH"]}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frames = Frames()
    assert [frame.kind for frame in frames.feed(done.stdout)] == ["result"]
    return read_done(frames.last)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the order cannot be read"),
        (b"{}", "the order cannot be read"),
        (b'{"format": 2, "lamina": "9.9"}', "was made by lamina 9.9 in form 2"),
    ],
)
def test_what_is_no_order_is_answered_in_one_line(tmp_path: Path, data: bytes, told: str) -> None:
    done = answer(tmp_path, data)
    assert told in done.error
    assert done.result is None
    assert not (tmp_path / "store").exists()


def test_a_shared_place_that_cannot_be_opened_is_answered(tmp_path: Path) -> None:
    step = OrderedStep(1, "x", (), (), OrderedImage("host"), "1x", 1, Memory(4096), (), (), ())
    order = Order(
        step, 1, (), (), (), None, "", "0" * 16, "t", "nowhere:x", {}, {}, (), (), "", "own", own_network=True, save_on_failure=False
    )
    assert "is no shared cache" in answer(tmp_path, encode(order)).error
    away = msgspec.structs.replace(order, shared="oci://127.0.0.1/x,key=env:NOT_LENT")
    assert "NOT_LENT, which is not set" in answer(tmp_path, encode(away)).error
