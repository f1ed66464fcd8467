"""`lamina pipeline run --engine`: puts a planned pipeline, a cluster and a shared place together. Opens no store of its own: the workers have theirs."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cli.inputs import BadOption
from lamina.cli.pipelinework import Place, RunOrdering, Work, recorded, wanted_clone
from lamina.cli.settings import Settings
from lamina.engine.caches import docker_form, open_cache
from lamina.pipelines.model import Pipe
from lamina.pipelines.plan import PlannedStep
from lamina.pipelines.remote.coordinator import OnCluster, Terms
from lamina.pipelines.remote.engines import check_engine, open_engine
from lamina.pipelines.remote.fitting import must_fit
from lamina.pipelines.remote.order import Login
from lamina.pipelines.remote.parcels import Parcels
from lamina.pipelines.run.checkout import Checkouts
from lamina.pipelines.run.history import RunRecord
from lamina.pipelines.run.images import HOST
from lamina.pipelines.run.pipes import image_of
from lamina.pipelines.run.runner import StepRunner, every_step
from lamina.pipelines.show import visible
from lamina.store.removal import remove

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache
    from lamina.pipelines.remote.cluster import Cluster
    from lamina.registry.client import RegistryClient

_NOTHING = "blobs/sha256/" + "0" * 64
_AWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)


class Shared(msgspec.Struct, frozen=True):
    """`text`: the place as workers open it; `environment`: what they need for it, which travels in orders only."""

    text: str
    environment: Mapping[str, str]


def on_cluster(work: Work, settings: Settings) -> RunRecord:
    """As carry_out."""
    kind = check_engine(work.engine)
    if work.bitbucket_caches:
        raise BadOption("--bitbucket-caches compares with one machine and does not go with --engine", hint="leave one of them out")
    if work.docker_choice not in ("auto", "own"):
        raise BadOption(
            f"--docker-cli {work.docker_choice} is a program of this machine; steps run elsewhere", hint="--docker-cli auto or own"
        )
    workers = settings.root / "workers"
    place = work.shared or (f"dir:{workers / 'shared'}" if kind == "processes" else "")
    if not place:
        raise BadOption(
            f"--engine {work.engine} needs --shared PLACE, through which clone, artifacts and caches travel",
            hint="oci://REGISTRY/REPOSITORY, s3://BUCKET/PREFIX, http(s)://SERVER, or dir:PATH on a file system that all machines have",
        )
    shared = travelling(place, settings.environment)
    steps = [step for step in every_step(work.plan) if work.numbers is None or step.number in work.numbers]
    if kind == "processes":
        settings.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        workers.mkdir(exist_ok=True, mode=0o700)
    with contextlib.closing(open_engine(work.engine, workers, settings.rung)) as cluster:
        must_fit([step for step in steps if step.decision.verdict != "skip"], cluster.fits, work.engine)
        with _opened(shared, settings, work) as cache:
            cache.objects.exists([_NOTHING])  # a place that does not answer is said before anything starts
            return recorded(work, lambda made: _there(work, settings, cluster, shared, cache, made))


@contextlib.contextmanager
def _there(work: Work, settings: Settings, cluster: Cluster, shared: Shared, cache: SharedCache, place: Place) -> Iterator[StepRunner]:
    scratch = Path(tempfile.mkdtemp(prefix="pipeline-", dir=place.folder))
    try:
        terms = Terms(
            project=work.project.folder.name,
            title=visible(work.tree.slug or str(work.tree.root)),
            shared=shared.text,
            shared_environment=shared.environment,
            image_map=work.image_map,
            logins=_logins(work.image_map, settings, shared.text),
            insecure_registries=work.insecure_registries,
            registry_ca=work.registry_ca.read_text() if work.registry_ca is not None else "",
            docker_cli=work.docker_choice,
            own_network=work.own_network,
            save_on_failure=work.save_on_failure,
        )
        runner = OnCluster(
            RunOrdering(place.pool, work.terminal, time.time),
            place.folder,
            cluster,
            Parcels(cache.objects, scratch),
            Checkouts(wanted_clone(work), scratch),
            place.artifacts,
            terms,
        )
        work.terminal.line(f"steps run at {work.engine}, what they share is in {cache.where}")
        try:
            yield runner
        finally:
            runner.close()
    finally:
        remove(scratch)


def _opened(shared: Shared, settings: Settings, work: Work) -> contextlib.AbstractContextManager[SharedCache]:
    known = {**settings.environment, **shared.environment}

    def client(seconds: float) -> RegistryClient:
        from lamina.engine.registries.access import client_for

        return client_for(known, settings.proxies, work.registry_ca, work.insecure_registries, seconds)

    return open_cache(shared.text, now=time.time, environment=known, registry=client)


def travelling(text: str, environment: Mapping[str, str]) -> Shared:
    """The place so that another machine can open it: secrets that stand in files or variables here go along. BadCacheSpec."""
    from lamina.cache.remote.errors import BadCacheSpec
    from lamina.cache.remote.opening import parse_spec

    spec = parse_spec(docker_form(text))
    options = dict(spec.options)
    lent: dict[str, str] = {}
    for option, variable in (("scope", "LAMINA_CACHE_SCOPE"), ("policy", "LAMINA_CACHE_POLICY"), ("key", "LAMINA_CACHE_KEY")):
        if option not in options and environment.get(variable):
            options[option] = environment[variable]

    def secret(what: str, place: str) -> str:
        if place.startswith("env:"):
            name = place.removeprefix("env:")
            if name not in environment:
                raise BadCacheSpec(f"the {what} comes from the variable {name}, which is not set")
            return environment[name]
        try:
            return Path(place).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadCacheSpec(f"the {what} {place} cannot be read: {error}") from error

    if "key" in options:
        label, equals, place = options["key"].rpartition("=")
        lent["LAMINA_LENT_KEY"] = secret("cache key", place)
        options["key"] = f"{label}{equals}env:LAMINA_LENT_KEY"
    token = options.pop("token-file", "") or (f"env:{options['token-env']}" if "token-env" in options else "")
    if token:
        lent["LAMINA_LENT_TOKEN"] = secret("cache's token", token)
        options["token-env"] = "LAMINA_LENT_TOKEN"
    if spec.kind == "s3":
        lent |= {name: environment[name] for name in _AWS if environment.get(name)}
    address = f"dir:{Path(spec.place).absolute()}" if spec.kind == "dir" else f"{spec.kind}://{spec.place}"
    return Shared(",".join([address, *(f"{name}={value}" for name, value in options.items())]), lent)


def _logins(image_map: Mapping[str, str], settings: Settings, shared: str) -> Callable[[PlannedStep], tuple[Login, ...]]:
    """This machine's own logins for the images of a step, and for a shared place that is a registry."""
    from lamina.diagnostics.errors import LaminaError
    from lamina.oci.reference import Reference
    from lamina.registry.logins import Logins, login_files

    logins = Logins(login_files(settings.environment))

    def of(planned: PlannedStep) -> tuple[Login, ...]:
        names = [planned.image.name, *(one.image.name for one in planned.services if one.image is not None)]
        names += [image_of(item.name) for item in (*planned.step.script, *planned.step.after_script) if isinstance(item, Pipe)]
        names += list(image_map.values())
        if shared.startswith("oci://"):
            names.append(shared.removeprefix("oci://").partition(",")[0])
        found: dict[str, Login] = {}
        for name in names:
            try:
                reference = Reference.parse(name) if name != HOST else None
                login = None if reference is None else logins.credentials(reference.registry, reference.repository)
            except LaminaError:  # the worker says what is wrong with the name; without a login it may do
                continue
            if reference is not None and login is not None:
                found[reference.registry] = Login(reference.registry, login.username, login.password, login.identity_token)
        return tuple(found.values())

    return of
