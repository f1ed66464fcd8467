"""What a build is asked and what it answers: frozen values, no environment, clock or argv behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.cache.reason import Reason, Verdict
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock


class Secret(msgspec.Struct, frozen=True):
    """Read when a step needs it: from a file, an environment value given by the caller, or bytes."""

    id: str
    file: Path | None = None
    value: bytes | None = None

    def __repr__(self) -> str:
        return f"Secret({self.id!r})"


class Output(msgspec.Struct, frozen=True):
    """`--output`. dest None = standard output for tar, oci and docker. registry: attrs `name` (else the tags) and `compression`."""

    type: Literal["image", "oci", "docker", "tar", "local", "registry"]
    dest: Path | None = None
    attrs: tuple[tuple[str, str], ...] = ()


class Selector(msgspec.Struct, frozen=True):
    """`--refresh`, `--max-age`, `cache forget`: a stage ("deps"), a step of it ("deps:3"), or the beginning of an instruction's text."""

    text: str


class Incoming(msgspec.Struct, frozen=True):
    """A context that is no directory here: an `archive` (descriptor of a seekable file), a `place` (repository or URL), or, with neither, nothing.

    `dockerfile`: its name inside, None when the request has its text already.
    """

    place: str | None = None
    archive: int | None = None
    dockerfile: str | None = None


class BuildRequest(msgspec.Struct, frozen=True):
    context: Path
    dockerfile_name: str  # as the user calls it; part of the place, not of any key
    dockerfile_text: str
    ignore_text: str | None = None  # of NAME.dockerignore or .dockerignore
    ignore_name: str = ".dockerignore"
    target: str | None = None
    args: Mapping[str, str | None] = msgspec.field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()  # () = this machine's
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    named_contexts: Mapping[str, str] = msgspec.field(
        default_factory=dict
    )  # DIR, oci-layout://…, docker-image://…, target-less git or http are refused
    secrets: tuple[Secret, ...] = ()
    more_secrets: Callable[[str], bytes | None] | None = None  # asked for an id that is not among them; None: nobody has it
    ssh: Mapping[str, Path] = msgspec.field(default_factory=dict)  # id -> agent socket or key file
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
    cache_from: tuple[str, ...] = ()  # shared caches that are read: dir:PATH, oci://…, s3://…, http(s)://…, with options
    cache_to: tuple[str, ...] = ()  # and written
    cache_mounts: tuple[str, ...] = ()  # RUN --mount=type=cache goes there and comes from there too: "all", "id=ID,merge=RULE"
    epoch: int | None = None  # seconds: the time of all that is made here, in config and layers (--reproducible)
    lock: Lock | None = None  # --locked: bases, URLs and repositories are these
    provenance: Literal["min", "max"] | None = None  # beside what is pushed or written as oci
    sbom: tuple[Literal["spdx", "cyclonedx"], ...] = ()  # likewise
    dockerfile_path: Path | None = None  # where the text was read from, so that the build can be repeated
    incoming: Incoming | None = None  # then `context` is not looked at
    project: str = ""  # for the accounting of the cache; "": as the context's folder or repository is called
    jobs: int = 0  # 0 = as many as the machine has processors, at least 16: steps wait more than they compute


class StepReport(msgspec.Struct, frozen=True):
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
    index: int = 0  # n of "[stage n/m]"; an instruction without a step of its own has that of the one before
    error: str | None = None  # of the one that failed


class BuiltImage(msgspec.Struct, frozen=True):
    """The image as it is in the store. `id` = digest of the config."""

    id: Digest
    manifest: Digest
    platform: Platform
    size: int
    tags: tuple[str, ...] = ()


class BuildResult(msgspec.Struct, frozen=True):
    build_id: str
    steps: tuple[StepReport, ...]
    images: tuple[BuiltImage, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    pushed: tuple[tuple[str, Digest], ...] = ()  # (name, digest that it has in its registry now)


class PlannedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A base that the build stands on. `fetch_bytes`: of its layers that are neither here nor left out because nothing needs them."""

    reference: str
    platform: str
    image: Digest
    fetch_bytes: int = 0


class PlanResult(msgspec.Struct, frozen=True):
    """`complete` = every step hits; nothing was executed."""

    steps: tuple[StepReport, ...]
    complete: bool
    fetch_bytes: int
    seconds_at_stake: float
    warnings: tuple[str, ...] = ()
    images: tuple[PlannedImage, ...] = ()


class ListedStep(msgspec.Struct, frozen=True):
    """An instruction as it stands in the file, before anything is done. `number` is the `id` of its events, 0 for one without a step."""

    stage: int
    stage_name: str
    line: int
    text: str
    kind: str  # its keyword: "FROM", "RUN"
    needed: bool
    number: int


class StepStarted(msgspec.Struct, frozen=True):
    id: int
    name: str  # "[build 3/7] RUN make"


class StepOutput(msgspec.Struct, frozen=True):
    id: int
    stream: Literal["stdout", "stderr"]
    data: bytes


class StepEnded(msgspec.Struct, frozen=True):
    id: int
    name: str
    verdict: Verdict
    reason: Reason
    seconds: float
    saved: float
    error: str | None = None
    key: str | None = None


class Notice(msgspec.Struct, frozen=True):
    """Something said once that belongs to no step ("GIT_SHA is in 14 keys, named by 1"; a weaker sandbox; exporting)."""

    level: Literal["info", "warning"]
    text: str
    code: str = ""


ProgressEvent = StepStarted | StepOutput | StepEnded | Notice
Report = Callable[[ProgressEvent], None]
"""Called from worker threads and the driver; must be quick and never raise."""
