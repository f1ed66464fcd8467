"""The zygote's process (child.py): started before it is needed, so that a Python is up when the first RUN comes."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

_CHILD = Path(__file__).with_name("child.py")
_CONTROL = 3  # the child's end of the control socket; it closes all else that it was not to have


class ZygoteProcess:
    """One running zygote. It ends with `end`, or with us: its control socket reaches EOF. Not thread-safe."""

    def __init__(self) -> None:
        """Starts it in the namespaces that this process is in. OSError. Without `subprocess`, whose import takes as long as half a RUN."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-S", "-B", str(_CHILD), str(_CONTROL)],
                    {"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), _CONTROL),  # first: it may have the number of one of the others
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
                )
            except BaseException:
                ours.close()
                raise
        self._control: socket.socket | None = ours
        self.exit_code: int | None = None  # after `end`; -9: killed

    def kill(self) -> None:
        """End it at once, as the machine might; what it runs dies with it. `end` is still to be called."""
        os.kill(self.pid, signal.SIGKILL)

    def send(self, kind: bytes, descriptors: Sequence[int]) -> None:
        """Begin a run with (stdout, stderr, run socket); `kind` is the byte of its protocol (standalone/zygote.py). OSError where the process is gone."""
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
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
