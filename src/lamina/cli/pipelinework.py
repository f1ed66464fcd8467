"""Wires a planned pipeline to an engine: what `lamina pipeline run` does once it knows what to do."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cli.dockerservice import DockerServices
from lamina.cli.pipelinetrace import RunTrace, run_trace
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.pipelines.caches.dockercache import OneTar, SharedBuildCache
from lamina.pipelines.caches.slots import SlotCaches
from lamina.pipelines.caches.versions import VersionedCaches
from lamina.pipelines.masking import Masker
from lamina.pipelines.plan import Plan
from lamina.pipelines.run.around import Around, StartDocker, StepResult
from lamina.pipelines.run.artifacts import ArtifactStore
from lamina.pipelines.run.checkout import Checkouts, Wanted
from lamina.pipelines.run.diskroom import DiskRoom
from lamina.pipelines.run.files import clone_tree
from lamina.pipelines.run.history import Project, RunRecord
from lamina.pipelines.run.images import Images
from lamina.pipelines.run.junit import junit
from lamina.pipelines.run.log import Terminal
from lamina.pipelines.run.record import outline, summary_of, timeline
from lamina.pipelines.run.runner import Here, Runner, Selection, StepRunner, every_step
from lamina.pipelines.show import visible
from lamina.pipelines.variables import Variable
from lamina.pipelines.worktree import Worktree

if TYPE_CHECKING:
    from lamina.engine.engine import Engine

_THREADS = 4096  # made as they are needed: steps, services and pipes have one each


class Work(msgspec.Struct, frozen=True):
    """`ref` empty: what is checked out. `numbers` None: all steps. `before`: the run that is done again in part. `engine`: the cluster that steps run on, empty
    for this machine; `shared`: the place that its workers and this machine have between them. `docker_choice`: what `docker_cli` was found by."""

    plan: Plan
    project: Project
    tree: Worktree
    ref: str
    merge: str
    uncommitted: bool
    numbers: frozenset[int] | None
    before: RunRecord | None
    yes: bool
    jobs: int
    image_map: Mapping[str, str]
    own_network: bool
    save_on_failure: bool
    bitbucket_caches: bool
    docker_cli: Path | None
    terminal: Terminal
    width: int
    blocks: bool
    changed: tuple[str, ...] | None
    registry_ca: Path | None = None
    insecure_registries: tuple[str, ...] = ()
    engine: str = ""
    shared: str = ""
    docker_choice: str = "auto"


class Place(msgspec.Struct, frozen=True):
    """Of one run, in the project's folder; `pool` has a thread for each step."""

    folder: Path
    artifacts: ArtifactStore
    pool: ThreadPoolExecutor


class RunOrdering(msgspec.Struct, frozen=True):
    """As around.Ordering."""

    pool: ThreadPoolExecutor
    terminal: Terminal
    now: Callable[[], float]


def carry_out(work: Work, settings: Settings) -> RunRecord:
    """Run it; prints as it goes. The record is on disk, too, and a trace of it where OTEL_* names a collector."""
    trace = run_trace(settings)
    record = _carried_out(work, settings, trace)
    if trace is not None:
        trace.send(record)
    return record


def _carried_out(work: Work, settings: Settings, trace: RunTrace | None) -> RunRecord:
    if work.engine:
        from lamina.cli.clusterwork import on_cluster

        return on_cluster(work, settings)
    services = None
    steps = every_step(work.plan)
    if any(step.docker for step in steps if work.numbers is None or step.number in work.numbers):
        options = ["--sandbox", settings.rung] if settings.rung else []
        serve = [part for host in work.insecure_registries for part in ("--insecure-registry", host)]
        serve += [] if work.registry_ca is None else ["--registry-ca", str(work.registry_ca.absolute())]
        services = DockerServices(settings.root, options, serve)
    try:
        with open_engine(settings, registry_ca=work.registry_ca, insecure_registries=work.insecure_registries) as engine:
            start = None if services is None else services.start if trace is None else trace.below_steps(services)
            return recorded(work, lambda place: _here(work, engine, settings, start, place))
    finally:
        if services is not None:
            services.close()


@contextlib.contextmanager
def _here(work: Work, engine: Engine, settings: Settings, docker: StartDocker | None, place: Place) -> Iterator[StepRunner]:
    """Steps run on this machine."""
    from lamina.engine.engine import own_platform
    from lamina.sandbox import rungs
    from lamina.sandbox.protocols import Sandbox

    project = work.project
    scratch = engine.store.scratch() / "pipeline"
    scratch.mkdir(mode=0o711)
    sandbox: Sandbox = rungs.make(engine.rung, (), engine.store.scratch() / "roots")
    slots = SlotCaches(project.slots, time.time)
    versions = VersionedCaches(project.caches, time.time)
    around = Around(
        store=engine.store,
        sandbox=lambda: sandbox,
        pool=place.pool,
        images=Images(engine, own_platform(), work.image_map),
        checkouts=Checkouts(wanted_clone(work), scratch),
        artifacts=place.artifacts,
        caches=slots if work.bitbucket_caches else versions,
        terminal=work.terminal,
        folder=place.folder,
        scratch=scratch,
        room=DiskRoom(scratch),
        now=time.time,
        docker_cache=OneTar(slots) if work.bitbucket_caches else SharedBuildCache(),
        docker=docker,
        docker_apart=work.bitbucket_caches,
        docker_cli=work.docker_cli,
        proxies=settings.proxies,
        own_network=work.own_network,
        save_on_failure=work.save_on_failure,
    )
    try:
        yield Here(around)
    finally:
        sandbox.close()
    if not work.bitbucket_caches:
        versions.collect()


def wanted_clone(work: Work) -> Wanted:
    """What steps find in their clone directory."""
    return Wanted(work.tree.root.resolve(), work.ref, work.merge, work.uncommitted, repository=bool(work.tree.commit))


def recorded(work: Work, carried: Callable[[Place], AbstractContextManager[StepRunner]]) -> RunRecord:
    """Number, folder, record, summary; the steps run where `carried` says. Raises what `carried` raises before anything has begun."""
    from lamina.solver.cancel import CancelToken

    project = work.project
    number, folder = project.begin(visible(work.tree.slug or str(work.tree.root)))
    held = project.lock(number)
    pipeline = work.plan.pipeline
    assert pipeline is not None
    record = RunRecord(
        number,
        f"{pipeline.kind} {pipeline.name}".strip(),
        work.tree.commit,
        time.time(),
        attempt=work.before.attempt + 1 if work.before is not None else 1,
        rerun_of=work.before.number if work.before is not None else 0,
        reason=visible(work.plan.reason),
        branch=visible(work.ref or work.tree.branch),
        outline=outline(work.plan),
    )
    project.write(record)
    given: list[Variable] = []
    if work.before is not None:
        earlier = project.place(work.before.number) / "artifacts"
        if earlier.is_dir():
            clone_tree(earlier, folder / "artifacts")
        given = [Variable(name, value, "output") for step in work.before.steps for name, value in step.outputs]
    terminal = work.terminal
    terminal.line(f"run {number}: {visible(work.plan.reason)}")
    artifacts = ArtifactStore(folder / "artifacts")
    if work.numbers is not None:
        artifacts.forget(sorted(work.numbers))
    cancel = CancelToken()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lamina-step")
    width = max((len(f"{step.number}. {visible(step.name)}") for step in every_step(work.plan)), default=0)
    progress = threading.Lock()

    def keep() -> None:
        with progress, contextlib.suppress(OSError):  # a full disk: the record at the end counts
            ended = tuple(sorted(runner.results, key=lambda step: step.number))
            project.write(msgspec.structs.replace(record, steps=ended, begun=dict(runner.begun)))

    with carried(Place(folder, artifacts, pool)) as steps:
        runner = Runner(
            RunOrdering(pool, terminal, time.time),
            steps,
            Selection(work.numbers, record.attempt),
            _confirm(work.yes),
            cancel,
            work.jobs,
            work.changed,
            given,
            min(width, 40),
            keep,
        )
        passed = False
        try:
            passed = runner.run(work.plan)
        except KeyboardInterrupt:
            cancel.cancel()
            raise
        finally:
            pool.shutdown(wait=True)
            results = _with_outputs(tuple(sorted(runner.results, key=lambda step: step.number)), work.before)
            record = msgspec.structs.replace(
                record, steps=results, passed=passed, interrupted=cancel.cancelled(), ended=time.time(), begun=runner.begun
            )
            project.write(record)
            (folder / "junit.xml").write_bytes(junit(f"run {number}: {record.pipeline}", record.steps))
            os.close(held)
        for line in (*(f"  {summary_of(step)}" for step in record.steps), *timeline(record.steps, work.width, blocks=work.blocks)):
            terminal.line(line)
        terminal.line(f"run {number}: {'passed' if passed else 'failed'}; logs in {folder / 'logs'}")
    project.prune()
    return record


def public(record: RunRecord, plan: Plan) -> RunRecord:
    """For others: without the secrets that steps wrote into output variables. On disk they are as they were, for a rerun."""
    masker = Masker(secret for step in every_step(plan) for secret in step.variables.secrets())
    steps = tuple(
        msgspec.structs.replace(step, outputs=tuple((name, masker.mask(value)) for name, value in step.outputs)) for step in record.steps
    )
    return msgspec.structs.replace(record, steps=steps)


def _with_outputs(steps: tuple[StepResult, ...], before: RunRecord | None) -> tuple[StepResult, ...]:
    """A step that was not run again keeps what it had left."""
    earlier = {step.number: step for step in before.steps} if before is not None else {}
    return tuple(
        msgspec.structs.replace(step, outputs=earlier[step.number].outputs) if step.status == "kept" and step.number in earlier else step
        for step in steps
    )


def _confirm(yes: bool) -> Callable[[str], bool]:
    def ask(what: str) -> bool:
        if yes:
            return True
        if sys.stdin is None or not sys.stdin.isatty():
            print(f"{what} is manual and was not started (--yes starts it)", file=sys.stderr)
            return False
        print(f"{what} is manual. Start it? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask
