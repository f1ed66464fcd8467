"""A container: what it was created with, what state it is in, what of it is on disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from lamina.server.clock import rfc3339
from lamina.server.containers.log import Log

if TYPE_CHECKING:
    from lamina.sandbox.containers import Process
    from lamina.server.containers.stdin import Stdin
    from lamina.server.wiring import Plug

Status = Literal["created", "running", "paused", "restarting", "exited", "dead"]


class MountPoint(msgspec.Struct, frozen=True):
    """What is mounted where, as `inspect` shows it. `name` of a volume; `source` on the host."""

    type: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    name: str = ""
    readonly: bool = False
    size: int = 0
    mode: int = 0o1777
    anonymous: bool = False
    root: str = ""  # the host folder that `source` must not leave, links included


class State(msgspec.Struct):
    status: Status = "created"
    exit_code: int = 0
    error: str = ""
    started: float | None = None
    finished: float | None = None
    restarts: int = 0
    restarts_in_a_row: int = 0
    oom: bool = False
    stopped_by_user: bool = False


class Record(msgspec.Struct):
    """What is on disk. `config` and `host` are docker's Config and HostConfig as `inspect` shows them."""

    id: str
    name: str
    created: float
    image: str  # id
    image_name: str
    platform: str
    layers: list[str]
    path: str
    args: list[str]
    config: dict[str, Any]
    host: dict[str, Any]
    networks: dict[str, dict[str, Any]]
    mounts: list[MountPoint]
    state: State = msgspec.field(default_factory=State)


_LOG_BYTES, _LOG_FILES = 256 << 20, 4  # where nothing else was asked for: docker has no limit there
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def log_bounds(config: Mapping[str, Any]) -> tuple[int, int]:
    """(bytes of a file, files) of a checked LogConfig; as docker, one file where only its size was given."""
    if config.get("Type") == "none":
        return 1 << 20, 1  # for those who are attached
    options = config.get("Config") or {}
    text = str(options.get("max-size") or "").lower().removesuffix("b")
    if text in ("", "-1"):
        return (_LOG_BYTES, int(options.get("max-file") or _LOG_FILES)) if text == "" else (0, 1)
    unit = text[-1] if text[-1] in "kmg" else ""
    return max(1, int(text.removesuffix(unit)) * _UNITS[unit]), int(options.get("max-file") or 1)


class Container:
    """`changed` guards `record.state` and what a run has; whoever changes them notifies. `folder` holds diff/, work/, log, container.json."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record
        self.log = Log(folder / "log", *self.bounds)
        self.changed = threading.Condition(threading.RLock())
        self.run = 0  # counts starts; 0 = not since the engine began
        self.ended = 0  # the last run that has ended with all its output
        self.removed = False
        self.process: Process | None = None
        self.stdin: Stdin | None = None
        self.health: dict[str, Any] | None = None
        self.stop_requested = threading.Event()
        self.made_groups: tuple[str, ...] = ()  # control groups that an update made
        self.lease = ""  # of its layers, where it outlives the engine
        self.network = -1  # a descriptor of its network namespace
        self.plugs: dict[str, Plug] = {}  # by network
        self.ports: dict[str, list[dict[str, str]]] = {}
        self.on_end: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def tty(self) -> bool:
        return bool(self.record.config.get("Tty"))

    @property
    def running(self) -> bool:
        return self.state.status in ("running", "paused")

    @property
    def bounds(self) -> tuple[int, int]:
        """Of its log."""
        return log_bounds(self.record.host.get("LogConfig") or {})

    @property
    def upper(self) -> Path:
        return self.folder / "diff"

    def save(self) -> None:
        """In one rename."""
        temporary = self.folder / f"container.json.{os.getpid()}.{threading.get_ident()}"
        try:
            temporary.write_bytes(msgspec.json.encode(self.record))
            os.replace(temporary, self.folder / "container.json")
        except FileNotFoundError:
            pass  # it is being removed

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()
        self.log.wake()

    def attributes(self) -> dict[str, str]:
        """Of its events."""
        labels = self.record.config.get("Labels") or {}
        return {**labels, "image": self.record.image_name, "name": self.name}

    def status_text(self, now: float) -> str:
        """`Up 3 minutes`, `Exited (0) 2 hours ago`, as `docker ps` shows it."""
        state = self.state
        if state.status == "created":
            return "Created"
        if state.status in ("running", "paused"):
            text = "Up " + duration(now - (state.started or now))
            if state.status == "paused":
                return text + " (Paused)"
            return text + (f" ({health_word(self.health)})" if self.health else "")
        if state.status == "dead":
            return "Dead"
        if state.status == "restarting":
            return f"Restarting ({state.exit_code}) {duration(now - (state.finished or now))} ago"
        return f"Exited ({state.exit_code}) {duration(now - (state.finished or now))} ago"

    def state_document(self) -> dict[str, Any]:
        state = self.state
        document: dict[str, Any] = {
            "Status": state.status,
            "Running": self.running or state.status == "restarting",
            "Paused": state.status == "paused",
            "Restarting": state.status == "restarting",
            "OOMKilled": state.oom,
            "Dead": state.status == "dead",
            "Pid": self.process.pid if self.process is not None and self.running else 0,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": rfc3339(state.started),
            "FinishedAt": rfc3339(state.finished),
        }
        if self.health is not None:
            document["Health"] = self.health
        return document


def health_word(health: dict[str, Any] | None) -> str:
    status = (health or {}).get("Status", "")
    return "health: starting" if status == "starting" else str(status)


def duration(seconds: float) -> str:
    """go-units' HumanDuration."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    return f"{days // 30} months" if days < 730 else f"{days // 365} years"
