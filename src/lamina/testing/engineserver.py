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


@contextmanager
def serving(root: Path, *options: str, environment: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """The address (unix://…) of an engine over the store `root`; it has ended when the block ends. RuntimeError when it does not start."""
    root.parent.mkdir(parents=True, exist_ok=True)
    place = root.parent / "engine.sock"
    log = root.parent / "engine.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lamina", "--root", str(root), "serve", "--host", f"unix://{place}", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **dict(environment)},
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _listens(place):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the engine did not start: " + log.read_text(errors="replace"))
            time.sleep(0.02)
        yield f"unix://{place}"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(place))
        except OSError:
            return False
    return True
