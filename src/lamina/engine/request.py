"""What a build is asked and what it answers: frozen values, no environment, clock or argv behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lamina.cache.reason import Reason, Verdict
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Secret:
    """Read when a step needs it: from a file, an environment value given by the caller, or bytes."""

    id: str
    file: Path | None = None
    value: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Output:
    """`--output`. dest None = standard output for tar, oci and docker."""

    type: Literal["image", "oci", "docker", "tar", "local"]
    dest: Path | None = None
    attrs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Selector:
    """`--refresh`, `--max-age`, `cache forget`: a stage ("deps"), a step of it ("deps:3"), or the beginning of an instruction's text."""

    text: str


@dataclass(frozen=True, slots=True)
class BuildRequest:
    context: Path
    dockerfile_name: str  # as the user calls it; part of the place, not of any key
    dockerfile_text: str
    ignore_text: str | None = None  # of NAME.dockerignore or .dockerignore
    ignore_name: str = ".dockerignore"
    target: str | None = None
    args: Mapping[str, str | None] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()  # () = this machine's
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    named_contexts: Mapping[str, str] = field(
        default_factory=dict
    )  # DIR, oci-layout://…, docker-image://…, target-less git or http are refused
    secrets: tuple[Secret, ...] = ()
    ssh: Mapping[str, Path] = field(default_factory=dict)  # id -> agent socket or key file
    outputs: tuple[Output, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    refresh: tuple[Selector, ...] = ()
    max_age: tuple[tuple[Selector, float], ...] = ()  # seconds
    pull: bool = False
    network: Literal["default", "none", "host"] = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    allow_insecure: bool = False  # --allow security.insecure
    exact_modes: bool = False
    arg_scope: Literal["declared", "named"] = "declared"
    cut_off: bool = True
    jobs: int = 0  # 0 = as many as the machine has processors, at least 16: steps wait more than they compute


@dataclass(frozen=True, slots=True)
class StepReport:
    """One instruction of the Dockerfile (or ONBUILD trigger) and what became of it. `lamina build --report` writes these."""

    stage: int
    stage_name: str
    line: int
    text: str
    verdict: Verdict
    reason: Reason
    trigger: bool = False
    key: str | None = None
    seconds: float = 0.0  # spent now
    saved: float = 0.0  # what a hit had cost when it ran
    fetch_bytes: int = 0  # plan: to be fetched for it
    state: str | None = None


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """The image as it is in the store. `id` = digest of the config."""

    id: Digest
    manifest: Digest
    platform: Platform
    size: int
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildResult:
    build_id: str
    steps: tuple[StepReport, ...]
    images: tuple[BuiltImage, ...]
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanResult:
    """`complete` = every step hits; nothing was executed."""

    steps: tuple[StepReport, ...]
    complete: bool
    fetch_bytes: int
    seconds_at_stake: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepStarted:
    id: int
    name: str  # "[build 3/7] RUN make"


@dataclass(frozen=True, slots=True)
class StepOutput:
    id: int
    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True)
class StepEnded:
    id: int
    name: str
    verdict: Verdict
    reason: Reason
    seconds: float
    saved: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something said once that belongs to no step ("GIT_SHA is in 14 keys, named by 1"; a weaker sandbox; exporting)."""

    level: Literal["info", "warning"]
    text: str
    code: str = ""


ProgressEvent = StepStarted | StepOutput | StepEnded | Notice
Report = Callable[[ProgressEvent], None]
"""Called from worker threads and the driver; must be quick and never raise."""
