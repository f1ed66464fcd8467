"""A real `lamina serve` for tests: a process of its own at a unix socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 120.0  # seconds until it must listen: less than one on an idle machine


def begin(root: Path, *options: str, environment: Sequence[tuple[str, str]] = ()) -> tuple[subprocess.Popen[bytes], str]:
    """An engine over the store `root` that listens already: (its process, its address unix://…). RuntimeError when it does not start. What it says
    is added to `engine.log` beside the store."""
    root.parent.mkdir(parents=True, exist_ok=True)
    place = root.parent / "engine.sock"
    log = root.parent / "engine.log"
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lamina", "--root", str(root), "serve", "--host", f"unix://{place}", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **dict(environment)},
        )
    deadline = time.monotonic() + _PATIENCE
    while not _listens(place):
        if process.poll() is not None or time.monotonic() > deadline:
            end(process)
            raise RuntimeError("the engine did not start: " + log.read_text(errors="replace"))
        time.sleep(0.02)
    return process, f"unix://{place}"


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def serving(root: Path, *options: str, environment: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """The address (unix://…) of an engine over the store `root`; it has ended when the block ends. RuntimeError when it does not start."""
    process, host = begin(root, *options, environment=environment)
    try:
        yield host
    finally:
        end(process)


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(place))
        except OSError:
            return False
    return True
