"""The worker's side of one step: frames instead of a terminal, parcels instead of folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.oci.unreadable import UNREADABLE
from lamina.pipelines.model import Clone
from lamina.pipelines.remote.frames import frame
from lamina.pipelines.remote.order import Done, Left, Order, encode, planned_step
from lamina.pipelines.remote.parcels import Parcels
from lamina.pipelines.run.around import Around, DueStep, StepResult
from lamina.pipelines.run.artifacts import ArtifactStore
from lamina.pipelines.run.log import Terminal
from lamina.pipelines.run.steps import StepRun
from lamina.solver.cancel import CancelToken

_LONGEST = 4 << 20  # bytes of a service's log that go back, the last ones
_LOG = re.compile(r"[0-9]{1,6}-[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.log")


class FrameTerminal(Terminal):
    """Whole lines as the log file has them. `write` gets whole frames, one at a time. `where`: this worker, for people."""

    def __init__(self, write: Callable[[bytes], None], where: str) -> None:
        super().__init__(lambda line: None)
        self._write = write
        self._where = where

    def printed(self, number: int, prefix: str, line: bytes) -> None:
        with self._lock:
            self._write(frame("line", line))

    def begun(self, number: int, name: str, *, parallel: bool) -> None:
        with self._lock:
            self._write(frame("begin", b"") + frame("line", f"Worker {self._where}".encode(errors="surrogateescape")))


class SentClone:
    """As checkout.Clones: what the run has packed."""

    def __init__(self, order: Order, parcels: Parcels) -> None:
        self._order = order
        self._parcels = parcels

    def put(self, clone: Clone, target: Path) -> str:
        """As Clones."""
        if self._order.clone is None:
            target.mkdir()
        else:
            self._parcels.get(self._order.clone, target)
        return self._order.clone_words


class FileSent(msgspec.Struct, frozen=True):
    """A log file beside the step's own."""

    name: str
    data: bytes


def receive(order: Order, artifacts: ArtifactStore, parcels: Parcels) -> None:
    """What earlier steps left. Errors of parcels."""
    for left in order.left:
        artifacts.adopt(left.kept, partial(parcels.get, left.parcel))


def work(order: Order, around: Around, artifacts: ArtifactStore, parcels: Parcels, write: Callable[[bytes], None]) -> None:
    """One step. What it leaves is in the shared place before its result is written; who is killed before that has left nothing that anybody sees."""
    receive(order, artifacts, parcels)
    due = DueStep(planned_step(order.step), order.given, order.before, attempt=order.attempt)
    result = StepRun(around, due, CancelToken()).run()
    left: tuple[Left, ...] = ()
    try:
        left = tuple(Left(kept, parcels.put(folder)) for kept, folder in artifacts.of([order.step.number]))
    except (LaminaError, OSError) as error:
        why = f"its artifacts cannot be handed over: {getattr(error, 'message', None) or error}"
        write(frame("line", f"error: {why}".encode(errors="replace")))
        result = failed(result, why)
    for path in sorted((around.folder / "logs").iterdir()):
        if _LOG.fullmatch(path.name) and path.is_file():
            with open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - _LONGEST))
                write(frame("file", msgspec.msgpack.encode(FileSent(path.name, file.read(_LONGEST)))))
    answer(Done(result, left), write)


def answer(done: Done, write: Callable[[bytes], None]) -> None:
    write(frame("result", encode(done)))


def failed(result: StepResult, why: str) -> StepResult:
    """It had passed so far, or had failed for another reason: that one stays."""
    if result.status != "passed":
        return result
    return msgspec.structs.replace(result, status="failed", exit_code=1, reason=why, outputs=())


def keep_file(body: bytes, logs: Path, number: int) -> None:
    """The other end of a frame of kind file: a log of this step, and nothing else."""
    try:
        sent = typed.msgpack(body, type=FileSent)
    except UNREADABLE:
        return
    if _LOG.fullmatch(sent.name) and sent.name.startswith(f"{number}-"):
        (logs / sent.name).write_bytes(sent.data)
