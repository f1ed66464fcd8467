"""The docker service of pipeline steps: `lamina serve` on a socket of the step's own, begun by a helper that was forked first.

The helper exists because a command of an ordinary user enters a user namespace, in which no second one can be made; a `lamina serve` begun from
outside makes its own. When the command ends, however it ends, the helper sees it and ends what it began.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lamina.pipelines.run.around import DockerService, RunError
from lamina.pipelines.run.shell import CLONE

_PATIENCE = 30.0  # seconds until an engine must answer
_GRACE = 5.0


class DockerServices:
    """`options` go before `serve`, `serve` after it. `environment`: what only engines know, never the programs that they start. Make it before any thread and before the store is opened. Thread-safe afterwards."""

    def __init__(self, root: Path, options: Sequence[str], serve: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
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

    def start(
        self, name: str, root: Path | None, log: Path, clone: Path, memory: int, /, environment: Mapping[str, str] | None = None
    ) -> DockerService:
        """As pipelines.run.around.StartDocker. `environment`: more of it, for this engine."""
        place = self._folder / name
        store = self._root if root is None else root
        command = [
            "--root",
            str(store),
            *self._options,
            "serve",
            *self._serve,
            "--allow-root",
            f"{CLONE}={clone}",
            "--host",
            f"unix://{place}",
        ]
        pid = int(
            self._ask(
                {"start": command, "log": str(log), "memory": memory << 20, "environment": {**self._environment, **(environment or {})}}
            )["pid"]
        )
        deadline = time.monotonic() + _PATIENCE
        while not _answers(place):
            if not _runs(pid) or time.monotonic() > deadline:
                self._ask({"stop": pid})
                said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
                raise RunError(f"the docker service did not start: {said[0] if said else 'it does not answer'}")
            time.sleep(0.01)

        def close() -> None:
            self._ask({"stop": pid})
            from lamina.server.places import folder_of, place_of
            from lamina.store.removal import remove

            with contextlib.suppress(OSError):  # what `lamina serve` keeps of this place: nobody will ask for it again
                remove(folder_of(store, place_of([f"unix://{place}"])))

        return DockerService(place, close, lambda: bool(self._ask({"starved": pid})["starved"]))

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
    _prepare()
    groups: dict[int, Group] = {}
    try:
        for line in control.makefile("rb"):
            asked = json.loads(line)
            answer: dict[str, object] = {}
            if "start" in asked:
                group = memory_group(asked["memory"])
                pid = _begin(control, asked["start"], asked["log"], asked["environment"], group)
                groups[pid] = group
                answer = {"pid": pid}
            elif "starved" in asked:
                group = groups[asked["starved"]]
                answer = {"starved": group.starved()}
            elif asked["stop"] in groups:
                _end([asked["stop"]])
                groups.pop(asked["stop"]).close()
            control.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        pass
    finally:
        _end(list(groups))
        for group in groups.values():
            group.close()


class Group(Protocol):
    """A control group of one engine and all that it begins."""

    def join(self) -> None: ...
    def starved(self) -> bool:
        """Whether the kernel has killed something in it for want of memory."""
        ...

    def close(self) -> object: ...


def memory_group(memory: int) -> Group:
    """Where the machine lets us make none, there is no limit."""
    from lamina.sandbox.standalone import limits

    made: Group = limits.Group({"memory": memory, "only_groups": 1})  # type: ignore[no-untyped-call]  # stands alone, without annotations
    return made


def _prepare() -> None:
    """What every engine imports, once, while the command opens the store: an engine is then a fork and no new interpreter."""
    import gc

    import lamina.cli.commands.serve
    import lamina.cli.group
    import lamina.cli.pipelineruns
    import lamina.engine.engine
    import lamina.engine.freshness.recipe
    import lamina.engine.images.finding
    import lamina.engine.opening
    import lamina.sandbox.choice
    import lamina.server.classic
    import lamina.server.routes
    import lamina.server.serving

    with contextlib.suppress(ModuleNotFoundError):  # the engine says what it wants
        import lamina.server.http.connection  # noqa: F401
    gc.freeze()  # a collection in an engine would copy every page of these


def _begin(control: socket.socket, command: Sequence[str], log: str, environment: dict[str, str], group: Group) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        group.join()
        control.close()
        os.setsid()
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for target, source in ((0, null), (1, written), (2, written)):
            os.dup2(source, target)
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the helper
        from lamina.cli.main import run

        code = run(list(command), os.environ | environment)
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end(children: Sequence[int]) -> None:
    """SIGTERM to all, then SIGKILL to those that stay."""
    left = list(children)
    deadline = time.monotonic() + _GRACE
    for pid in left:
        os.kill(pid, signal.SIGTERM)
    while left:
        left = [pid for pid in left if os.waitpid(pid, os.WNOHANG)[0] == 0]
        if left and time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return
        if left:
            time.sleep(0.005)
