"""Runs of a project on disk: number, logs, artifacts, result. `<root>/pipelines/<project>/runs/<number>/`."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.record import Outlined
from lamina.store.removal import remove

KEPT = 20  # runs
_FORMAT = 1


class NoRun(LaminaError):
    code = "pipeline/no-run"
    default_exit = 66


class RunRecord(msgspec.Struct, frozen=True):
    """`pipeline` is its kind and name. `passed` None: it was killed, or still runs. `attempt` counts reruns from 1.
    `steps` are those that have ended; `outline` are all; `begun`: when each began, by number. `reason`: why this pipeline."""

    number: int
    pipeline: str
    commit: str
    started: float
    steps: tuple[StepResult, ...] = ()
    passed: bool | None = None
    attempt: int = 1
    rerun_of: int = 0
    interrupted: bool = False
    ended: float = 0.0
    reason: str = ""
    branch: str = ""
    outline: tuple[Outlined, ...] = ()
    begun: dict[int, float] = {}
    format: int = _FORMAT


class Project:
    """One repository's folder. Several runs may go on at once: each has its own number."""

    def __init__(self, root: Path, identity: str) -> None:
        self.folder = root / "pipelines" / hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]

    @classmethod
    def all(cls, root: Path) -> list[Project]:
        """Those that have run something with the store at `root`."""
        found = []
        for folder in sorted((root / "pipelines").glob("[0-9a-f]" * 16)):
            project = cls(root, "")
            project.folder = folder
            found.append(project)
        return found

    def title(self) -> str:
        """How people call the repository."""
        try:
            return (self.folder / "title").read_text(errors="replace")
        except FileNotFoundError:
            return self.folder.name

    @property
    def caches(self) -> Path:
        return self.folder / "caches"

    @property
    def slots(self) -> Path:
        return self.folder / "bitbucket-caches"

    def begin(self, title: str = "") -> tuple[int, Path]:
        """The next number and its new folder, with `logs/` in it. `title`: how people call the repository."""
        runs = self.folder / "runs"
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        if title and not (self.folder / "title").exists():
            (self.folder / "title").write_text(title, errors="surrogateescape")
        number = max(self.numbers(), default=0) + 1
        while True:
            place = runs / str(number)
            try:
                place.mkdir(mode=0o700)
            except FileExistsError:
                number += 1
                continue
            (place / "logs").mkdir()
            return number, place

    def lock(self, number: int) -> int:
        """Held while the run lives; its descriptor is closed by the process's end at the latest."""
        descriptor = os.open(self.place(number) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def running(self, number: int) -> bool:
        """Whether a process works on it."""
        try:
            descriptor = os.open(self.place(number) / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def numbers(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(name) for name in os.listdir(self.folder / "runs") if name.isdigit())
        return []

    def place(self, number: int) -> Path:
        return self.folder / "runs" / str(number)

    def write(self, record: RunRecord) -> None:
        """In one rename; one thread at a time."""
        place = self.place(record.number)
        temporary = place / f"run.new.{os.getpid()}"
        temporary.write_bytes(msgspec.json.encode(record))
        os.replace(temporary, place / "run.json")

    def read(self, number: int) -> RunRecord | None:
        try:
            return typed.json((self.place(number) / "run.json").read_bytes(), type=RunRecord)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def last(self) -> RunRecord:
        """The newest run with a record. NoRun."""
        for number in reversed(self.numbers()):
            record = self.read(number)
            if record is not None and record.steps:
                return record
        raise NoRun("no earlier run of this repository is known", hint="run the pipeline once without --rerun-failed")

    def prune(self) -> None:
        """All but the last ones; those that still run stay."""
        for number in self.numbers()[:-KEPT]:
            with contextlib.suppress(OSError):
                held = os.open(self.place(number) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(self.place(number))
                finally:
                    os.close(held)
