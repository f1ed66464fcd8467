"""The docker service of pipeline steps: `lamina serve` on a socket of the step's own, begun by a helper that was forked first.

The helper exists because a command of an ordinary user enters a user namespace, in which no second one can be made; a `lamina serve` begun from
outside makes its own. When the command ends, however it ends, the helper sees it and ends what it began.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamina.pipelines.run.around import DockerService, RunError

_PATIENCE = 30.0  # seconds until an engine must answer
_GRACE = 5.0


class DockerServices:
    """`options` go before `serve`, `serve` after it. Make it before any thread and before the store is opened. Thread-safe afterwards."""

    def __init__(self, root: Path, options: Sequence[str], serve: Sequence[str] = ()) -> None:
        self._root = root
        self._options = tuple(options)
        self._serve = tuple(serve)
        self._lock = threading.Lock()
        # Not in the store: the path of a socket has 108 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="lamina-"))
        self._helper, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._helper.close()
            try:
                _serve(theirs)
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
                os._exit(0)
        theirs.close()

    def start(self, name: str, root: Path | None, log: Path, /) -> DockerService:
        """As pipelines.run.around.StartDocker."""
        place = self._folder / name
        store = self._root if root is None else root
        command = [sys.executable, "-m", "lamina", "--root", str(store), *self._options, "serve", *self._serve, "--host", f"unix://{place}"]
        pid = int(self._ask({"start": command, "log": str(log)})["pid"])
        deadline = time.monotonic() + _PATIENCE
        while not _answers(place):
            if not _runs(pid) or time.monotonic() > deadline:
                self._ask({"stop": pid})
                said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
                raise RunError(f"the docker service did not start: {said[0] if said else 'it does not answer'}")
            time.sleep(0.01)

        def close() -> None:
            self._ask({"stop": pid})
            from lamina.store.removal import remove

            with contextlib.suppress(OSError):  # what `lamina serve` keeps of this place: nobody will ask for it again
                remove(store / "engines" / hashlib.sha256(f"unix://{place}".encode()).hexdigest()[:16])

        return DockerService(place, close)

    def close(self) -> None:
        self._helper.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _ask(self, what: dict[str, object]) -> dict[str, Any]:
        with self._lock:
            self._helper.sendall(json.dumps(what).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                data = self._helper.recv(65536)
                if not data:
                    raise RunError("the helper that begins docker services was killed")
                answer += data
        found: dict[str, Any] = json.loads(answer)
        return found


def _answers(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(place))
        except OSError:
            return False
    return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _serve(control: socket.socket) -> None:
    """The helper: one thread, ends with the other side."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    children: dict[int, subprocess.Popen[bytes]] = {}
    lines = control.makefile("rb")
    try:
        for line in lines:
            asked = json.loads(line)
            if "start" in asked:
                with open(asked["log"], "wb") as log:
                    child = subprocess.Popen(
                        asked["start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                        preexec_fn=_default_signals,  # noqa: PLW1509 - the helper has one thread
                    )  # fmt: skip
                children[child.pid] = child
                answer: dict[str, object] = {"pid": child.pid}
            else:
                stopped = children.pop(asked["stop"], None)
                if stopped is not None:
                    _end(stopped)
                answer = {}
            control.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        pass
    finally:
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        for child in children.values():
            _end(child)


def _default_signals() -> None:
    """In the child before exec: the helper ignores what its child must hear, and the child ends with the helper."""
    import ctypes

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
