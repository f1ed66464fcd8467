"""The zygote's process (child.py): started before it is needed, so that a Python is up when the first RUN comes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CHILD = Path(__file__).with_name("child.py")


class ZygoteProcess:
    """One running zygote. It ends with `end`, or with us: its control socket reaches EOF. Not thread-safe."""

    def __init__(self) -> None:
        """Starts it in the namespaces that this process is in. OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", str(_CHILD), str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                    cwd="/",
                )
            except BaseException:
                ours.close()
                raise
        self._control: socket.socket | None = ours

    def kill(self) -> None:
        """End it at once, as the machine might; what it runs dies with it. `end` is still to be called."""
        self._process.kill()

    def send(self, kind: bytes, descriptors: Sequence[int]) -> None:
        """Begin a run with (stdout, stderr, run socket); `kind` is child.py's byte. OSError where the process is gone."""
        if self._control is None:
            raise BrokenPipeError(32, "it was ended")
        socket.send_fds(self._control, [kind], list(descriptors))

    def end(self) -> None:
        """Idempotent. Runs that are under way are killed."""
        if self._control is None:
            return
        self._control.close()
        self._control = None
        self.kill()  # everything below it asked to die with it; by itself it would take its interpreter apart first
        self._process.wait()
