"""Wires everything: BuildRequest -> BuildResult. The only room that knows all others."""

from __future__ import annotations

import contextlib
import os
import platform as host_platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.index import LocalRecords
from lamina.diagnostics.errors import LaminaError, nearest
from lamina.dockerfile import DockerfileError, parse
from lamina.dockerfile.instructions import Document
from lamina.dockerfile.lower import Lowered, Needs, Options, ResolvedBase, lower
from lamina.engine.accounts import layer_times, listed_step, step_report
from lamina.engine.assemble import assemble
from lamina.engine.bases import Bases
from lamina.engine.contextfiles import is_remote
from lamina.engine.job import Job
from lamina.engine.locks import Cancelled
from lamina.engine.reporting import step_documents
from lamina.engine.request import BuildRequest, BuildResult, BuiltImage, ListedStep, Notice, PlanResult, Report, StepReport
from lamina.engine.results import Filesystem, Result
from lamina.engine.sources import Contexts
from lamina.engine.surroundings import Surroundings
from lamina.graph.vertex import Vertex
from lamina.oci import typed
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.sandbox.protocols import Sandbox
from lamina.solver.cancel import CancelToken
from lamina.solver.driver import Driver
from lamina.solver.events import Ended, Outcome
from lamina.solver.machine import Machine
from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache
    from lamina.engine.attest.attached import Attest
    from lamina.engine.freshness.lockfile import Lock
    from lamina.engine.receipt import Receipt
    from lamina.registry.client import RegistryClient


class UnknownSelector(LaminaError):
    code = "engine/selector"
    default_exit = 2


def _ignore(event: object) -> None:
    pass


def no_caches(place: str) -> SharedCache:
    raise LaminaError(f"{place}: this engine was opened without shared caches", exit_code=2)


class Engine:
    """One store, one sandbox, any number of builds one after the other. Every collaborator is passed in."""

    def __init__(
        self,
        store: LocalStore,
        sandbox: Callable[[], Sandbox],
        *,
        now: Callable[[], float],
        host: str,
        registry: Callable[[], RegistryClient],
    ) -> None:
        self.store = store
        self.records = LocalRecords(store.database, now)
        self.now = now
        self.host = host
        self.on_receipt: Callable[[Receipt], None] | None = None  # told of a build that found everything and can be told unchanged later
        self.on_steps: Callable[[tuple[ListedStep, ...]], None] | None = (
            None  # told of a build's instructions before the first one is looked at
        )
        self.open_cache: Callable[[str], SharedCache] = no_caches  # opens what --cache-from and --cache-to name
        self.shared: tuple[str, ...] = ()  # shared caches that every build reads and writes, whatever its request names
        self.failed: BuildResult | None = None  # of the last build that failed: its steps so far
        self.build_id = ""  # of the last build that began
        self._sandbox = sandbox
        self.registry = registry

    @property
    def rung(self) -> str:
        """The rung that a RUN would have; nothing starts."""
        return self._sandbox().name

    def build(
        self, request: BuildRequest, report: Report = _ignore, cancel: CancelToken | None = None, *, one_of_several: bool = False
    ) -> BuildResult:
        """Build, keep, export. Raises LaminaError with spans; then `failed` has what became of each step.

        The names then mean this image alone, as in docker; `one_of_several`: whoever builds several platforms sees to that.
        """
        if len(request.platforms) > 1:
            from lamina.engine.platforms import build_each

            return build_each(self, request, report, cancel)
        if self.shared:
            request = msgspec.structs.replace(
                request, cache_from=(*request.cache_from, *self.shared), cache_to=(*request.cache_to, *self.shared)
            )
        started = time.monotonic()
        self.failed = None
        build_id = self.build_id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime(self.now())) + os.urandom(3).hex()
        for output in request.outputs:
            if output.type == "registry":
                from lamina.engine.registries.pushing import names_to_push

                names_to_push(output, request.tags)
        with self._around(request) as around:
            request = _received(request, around)
            lowered = self._lower(request, around)
            job = Job(request, around, report, build_id=build_id)
            job.lowered = lowered
            self._share(job, build_id)
            self._check_selectors(job, lowered)
            self._notices(lowered, job)
            if self.on_steps is not None:
                self.on_steps(tuple(listed_step(row, job) for row in lowered.steps))
            outcome = self._solve(lowered, job, request, cancel)
            ended = {id(e.node): e for e in outcome.ended}
            if not outcome.ok:
                steps = self._steps(lowered, job, ended)
                self.failed = BuildResult(build_id, steps, (), time.monotonic() - started, tuple(job.warnings))
                self._remember(self.failed, request, str(outcome.error or "cancelled"))
                if outcome.error is not None and not isinstance(outcome.error, Cancelled):
                    raise outcome.error
                raise KeyboardInterrupt
            if around.sharing is not None:
                around.sharing.succeeded = True
            result = ended[id(lowered.target)].result if lowered.target is not None else None
            assert result is None or isinstance(result, Filesystem)
            names = tuple(str(Reference.parse(tag).with_default_tag()) for tag in request.tags)
            kept = names if not request.outputs or any(output.type == "image" for output in request.outputs) else ()
            around.settle()
            image = assemble(lowered, result, layer_times(lowered, ended), around, kept, request.epoch)
            if not one_of_several:
                self.store.images.only(kept, (image.platform,))
            steps = self._steps(lowered, job, ended)
            from lamina.engine.freshness.origins import remember

            remember(self.store, image, kept, request, around, lowered, steps)
            pushed = self.export([msgspec.structs.replace(image, names=names)], request, job.report, job.warn)
            built = BuiltImage(image.id, image.manifest, Platform.parse(image.platform), image.size, names)
            built_result = BuildResult(build_id, steps, (built,), time.monotonic() - started, tuple(job.warnings), pushed)
            self._remember(built_result, request, None)
            if self.on_receipt is not None and not any(step.verdict == "ran" for step in built_result.steps):
                from lamina.engine.receipt import take

                receipt = take(job, lowered, outcome.ended, image, names, built_result)
                if receipt is not None:
                    self.on_receipt(receipt)
            return built_result

    def plan(self, request: BuildRequest, report: Report = _ignore) -> PlanResult:
        """What a build would do. Executes nothing, fetches no layer."""
        if len(request.platforms) > 1:
            from lamina.engine.platforms import plan_each

            return plan_each(self, request, report)
        with self._around(request) as around:
            request = _received(request, around)
            lowered = self._lower(request, around)
            job = Job(request, around, report, build_id="plan", planning=True)
            job.lowered = lowered
            self._share(job, "plan")
            self._check_selectors(job, lowered)
            self._notices(lowered, job)
            outcome = self._solve(lowered, job, request, None, planning=True)
            if outcome.error is not None:
                raise outcome.error
            ended = {id(e.node): e for e in outcome.ended}
            steps = self._steps(lowered, job, ended)
            work = [s for s in steps if s.verdict in ("miss", "unknown")]
            from lamina.engine.planning import cost

            costs = cost(lowered, outcome.ended, around, steps, everything=bool(work))
            return PlanResult(costs.steps, not work, costs.bytes, sum(s.saved for s in work), tuple(job.warnings), costs.images)

    def lock(self, request: BuildRequest) -> Lock:
        """What the request's bases, URLs and repositories come to now. Executes nothing, fetches no layer."""
        from lamina.engine.freshness.lockfile import Lock, lock_now, merged

        found = Lock()
        for platform in request.platforms or (None,):
            one = request if platform is None else msgspec.structs.replace(request, platforms=(platform,))
            with self._around(one) as around:
                found = merged(found, lock_now(self.store, around, self._lower(_received(one, around), around)))
        return found

    # Parts of a build

    @contextlib.contextmanager
    def _around(self, request: BuildRequest) -> Iterator[Surroundings]:
        folders = {"context": request.context}
        for name, place in request.named_contexts.items():
            if not ("://" in place or is_remote(place)):
                folders[name] = _directory(name, place)
        scratch = self.store.layout.active / self.store.lease.name()
        around = Surroundings(
            self.store,
            self.records,
            Bases(self.store, self.registry, request.lock),
            Contexts(self.store, folders, request.ignore_text, exact_modes=request.exact_modes),
            self._sandbox,
            scratch,
            now=self.now,
            host=self.host,
            pins=request.lock,
        )
        try:
            yield around
        finally:
            around.close()
            if scratch.exists():
                from lamina.store.removal import remove

                with contextlib.suppress(OSError):  # the next collection takes it
                    remove(scratch)

    def _lower(self, request: BuildRequest, around: Surroundings) -> Lowered:
        document = parse(request.dockerfile_text, request.dockerfile_name)
        if document.errors:
            raise DockerfileError(document.errors)
        _check(document, request)
        images = {}
        for name, place in request.named_contexts.items():
            if place.startswith(("docker-image://", "oci-layout://")):
                images[name] = place.removeprefix("docker-image://")
            elif "://" in place and not is_remote(place):
                raise LaminaError(
                    f"--build-context {name}={place}: only a directory, URL, oci-layout:// and docker-image:// are known", exit_code=2
                )
        own = own_platform()
        options = Options(
            target=request.target,
            args=request.args,
            build_platform=own,
            platform=request.platforms[0] if request.platforms else own,
            platform_given=bool(request.platforms),
            labels=request.labels,
            contexts=frozenset(request.named_contexts.keys() - images.keys()),
            images=images,
            network=request.network,
            extra_hosts=request.extra_hosts,
            shm_size=request.shm_size,
            ulimits=request.ulimits,
            arg_scope=request.arg_scope,
        )
        bases: dict[tuple[str, Platform], ResolvedBase] = {}
        while True:
            found = lower(document, options, bases)
            if isinstance(found, Lowered):
                return found
            assert isinstance(found, Needs)
            for key in sorted(found.references, key=str):
                try:
                    bases[key] = around.bases.resolve(key[0], key[1], pull_newer=request.pull)
                except LaminaError as error:
                    from lamina.engine.imagenames import point

                    point(error, document, key[0])
                    raise

    def _solve(
        self, lowered: Lowered, job: Job, request: BuildRequest, cancel: CancelToken | None, *, planning: bool = False
    ) -> Outcome[Vertex, Result]:
        targets = () if lowered.target is None else (lowered.target,)
        jobs = request.jobs or max(16, os.cpu_count() or 1)
        machine: Machine[Vertex, Result] = Machine(jobs, "plan" if planning else "build")
        driver: Driver[Vertex, Result] = Driver(machine, job.perform, jobs, inline=job.inline, cancel=cancel)
        if not targets:
            return Outcome(())
        return driver.run(targets, present=not planning)

    def export(
        self, images: Sequence[Image], request: BuildRequest, report: Report, warn: Callable[[str], None]
    ) -> tuple[tuple[str, Digest], ...]:
        """Carry out the request's outputs; one image for each platform. What was pushed: (name, digest)."""
        outputs = [output for output in request.outputs if output.type != "image"]
        if not outputs:
            return ()
        from lamina.engine.exporters.export import export

        attest: Attest | None = None
        if request.provenance or request.sbom:
            from lamina.engine.attest.making import Attestor, Wanted

            attest = Attestor(self, Wanted(request.provenance, request.sbom), warn)
        pushed: list[tuple[str, Digest]] = []
        for output in outputs:
            if output.type == "registry":
                from lamina.engine.registries.pushing import push_output

                for done in push_output(self.store, self.registry(), images, output, request.tags, attest):
                    pushed.append((str(done.reference), done.digest))
                    report(Notice("info", f"pushed {done.reference.familiar} {done.digest}", "pushed"))
                continue
            for warning in export(self.store, images, output, sys.stdout.buffer, attest):
                warn(warning)
        return tuple(pushed)

    def _share(self, job: Job, build_id: str) -> None:
        """Open the shared caches that the request names; Surroundings.close hands over what was built and closes them."""
        if job.request.cache_from or job.request.cache_to:
            from lamina.engine.sharing import share

            share(self.open_cache, job, build_id)

    def _check_selectors(self, job: Job, lowered: Lowered) -> None:
        steps = [row.step for row in lowered.steps]
        unused = job.asked.unused(steps)
        if unused:
            stages = sorted({s.stage_name for s in steps if s.stage_name})
            near = nearest(unused[0].lower(), stages)
            raise UnknownSelector(
                f"{unused[0]!r} selects no step",
                hint=f"did you mean {near!r}?"
                if near
                else f"give STAGE ({', '.join(stages) or '0'}), STAGE:N as in [stage N/M], or the beginning of an instruction",
            )

    def _notices(self, lowered: Lowered, job: Job) -> None:
        for name, why in job.around.bases.unanswered.items():
            job.warn(f"{name}: the registry was not asked ({why}); the image that is here is used", "base-offline")
        for diagnostic in lowered.warnings:
            job.warn(diagnostic.message, diagnostic.code)
        for name, value in job.request.args.items():
            if value and "PRIVATE KEY-----" in value:
                from lamina.dockerfile.lintcache import KEY_HINT

                job.warn(
                    f"--build-arg {name} is a private key: it stays in the image's history and in the cache. Instead: {KEY_HINT}",
                    "private-key-arg",
                )
        if job.request.arg_scope == "declared":
            for use in lowered.arg_uses:
                if use.in_keys and not use.named:
                    plural = "" if use.in_keys == 1 else "s"
                    job.report(
                        Notice(
                            "info",
                            f"ARG {use.name} is in {use.in_keys} key{plural}, named by none (--arg-scope=named leaves it out)",
                            "unnamed-arg",
                        )
                    )

    def _steps(self, lowered: Lowered, job: Job, ended: Mapping[int, Ended[Vertex, Result]]) -> tuple[StepReport, ...]:
        return tuple(step_report(row, job, ended) for row in lowered.steps)

    def _remember(self, result: BuildResult, request: BuildRequest, error: str | None) -> None:
        self.store.builds.add(
            BuildLog(
                id=result.build_id,
                created=self.now(),
                dockerfile=request.dockerfile_name,
                steps=msgspec.Raw(typed.encode_json(step_documents(result.steps))),
                target=request.target,
                tags=tuple(tag for image in result.images for tag in image.tags),
                images=tuple(image.id for image in result.images),
                seconds=result.seconds,
                error=error,
            )
        )


def _check(document: Document, request: BuildRequest) -> None:
    """`# check=error=true` in the file: what the checks find ends the build, as in docker. DockerfileError."""
    if not any(name == "check" for name, _, _ in document.directives):
        return
    from lamina.dockerfile.ignore import IgnoreRules
    from lamina.dockerfile.lint import check_options, lint

    if check_options(document)[0].error:
        ignore = IgnoreRules.parse(request.ignore_text) if request.ignore_text is not None else None
        found = tuple(item for item in lint(document, ignore=ignore) if item.severity == "error")
        if found:
            raise DockerfileError(found)


def own_platform() -> Platform:
    return Platform("linux", host_platform.machine()).normalised()


def _received(request: BuildRequest, around: Surroundings) -> BuildRequest:
    """Contexts that are no directories here are brought in; the request then has the Dockerfile's text."""
    around.sources.ssh = request.ssh.get("default")
    named = [(name, place) for name, place in request.named_contexts.items() if is_remote(place)]
    if request.incoming is None and not named:
        return request
    from lamina.engine.incoming import receive, receive_named

    for name, place in named:
        receive_named(name, place, request, around)
    return request if request.incoming is None else receive(request, around)


def _directory(name: str, place: str) -> Path:
    path = Path(place)
    if not path.is_dir():
        raise LaminaError(f"--build-context {name}={place}: there is no such directory", exit_code=2)
    return path
