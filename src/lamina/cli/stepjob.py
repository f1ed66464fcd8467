"""`lamina pipeline step-job`: one step for a run on another machine, over this worker's own store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cli.dockerservice import DockerServices
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.caches.dockercache import SharedBuildCache
from lamina.pipelines.remote.order import Done, Order, read_order
from lamina.pipelines.remote.parcels import Parcels
from lamina.pipelines.remote.travelling import TravellingCaches
from lamina.pipelines.remote.working import FrameTerminal, SentClone, answer, work
from lamina.pipelines.run.around import Around
from lamina.pipelines.run.artifacts import ArtifactStore
from lamina.pipelines.run.diskroom import DiskRoom
from lamina.pipelines.run.history import Project
from lamina.pipelines.run.images import Images
from lamina.registry.auth import Credentials
from lamina.registry.logins import LENT, lend

if TYPE_CHECKING:
    from lamina.engine.engine import Engine

_THREADS = 4096


def job(settings: Settings, data: bytes, write: Callable[[bytes], None]) -> None:
    """`data` is the order. `write` gets whole frames; the last one is the result, unless the process is killed."""
    try:
        order = read_order(data)
        ca = None
        if order.registry_ca:
            # No file: a job that is killed takes nothing away. The docker service is a fork and has the descriptor, too.
            held = os.memfd_create("registry-ca")
            os.write(held, order.registry_ca.encode())
            ca = Path(f"/proc/self/fd/{held}")
        # What only this job may know is in no environment of a process.
        lent = lend({one.registry: Credentials(one.username, one.password, one.identity_token) for one in order.logins})
        secret = {**order.shared_environment, LENT: lent}
        known = msgspec.structs.replace(settings, environment={**settings.environment, **secret})
        _with_services(order, known, secret, ca, write)
    except LaminaError as error:
        answer(Done(error=error.message, hint=error.hint or ""), write)
    except OSError as error:
        place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
        answer(Done(error=f"{error.strerror or error}{place}"), write)


def _with_services(order: Order, settings: Settings, secret: dict[str, str], ca: Path | None, write: Callable[[bytes], None]) -> None:
    services = None
    if any(service.docker for service in order.step.services):
        options = ["--sandbox", settings.rung] if settings.rung else []
        serve = [part for host in order.insecure_registries for part in ("--insecure-registry", host)]
        serve += [] if ca is None else ["--registry-ca", str(ca)]
        serve += ["--build-cache", order.shared]
        services = DockerServices(settings.root, options, serve, secret)
    try:
        with open_engine(settings, registry_ca=ca, insecure_registries=order.insecure_registries) as engine:
            _step(order, settings, engine, services, write)
    finally:
        if services is not None:
            services.close()


def _step(order: Order, settings: Settings, engine: Engine, services: DockerServices | None, write: Callable[[bytes], None]) -> None:
    from lamina.cli.commands.pipeline_run import docker_cli
    from lamina.engine.engine import own_platform
    from lamina.sandbox import rungs

    scratch = engine.store.scratch() / "pipeline"
    scratch.mkdir(mode=0o711)
    record = engine.store.scratch() / "record"
    (record / "logs").mkdir(parents=True, mode=0o700)
    project = Project(settings.root, "")
    project.folder = settings.root / "pipelines" / order.project
    project.folder.mkdir(parents=True, exist_ok=True)
    if not (project.folder / "title").exists():
        (project.folder / "title").write_text(order.title, errors="surrogateescape")
    sandbox = rungs.make(engine.rung, (), engine.store.scratch() / "roots")
    artifacts = ArtifactStore(record / "artifacts")
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lamina-step")
    try:
        with engine.open_cache(order.shared) as shared:
            parcels = Parcels(shared.objects, record)
            caches = TravellingCaches(shared, project.folder / "travelling", order.project, time.time)
            around = Around(
                store=engine.store,
                sandbox=lambda: sandbox,
                pool=pool,
                images=Images(engine, own_platform(), order.image_map),
                checkouts=SentClone(order, parcels),
                artifacts=artifacts,
                caches=caches,
                terminal=FrameTerminal(write, f"{os.uname().nodename}, store {settings.root}"),
                folder=record,
                scratch=scratch,
                room=DiskRoom(scratch),
                now=time.time,
                docker_cache=SharedBuildCache(shared.where),
                docker=services.start if services is not None else None,
                docker_cli=docker_cli(order.docker_cli),
                proxies=settings.proxies,
                own_network=order.own_network,
                save_on_failure=order.save_on_failure,
            )
            # The sandbox's helper ends with the thread that began it.
            pool.submit(work, order, around, artifacts, parcels, write).result()
            caches.collect()
    finally:
        pool.shutdown(wait=True)
        sandbox.close()
