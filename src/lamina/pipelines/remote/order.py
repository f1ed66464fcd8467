"""What travels to a worker and what comes back: one JSON document each, with a number for its form. Pure.

An order holds all that one step needs, secrets included; it is given to the job on its standard input and to nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.span import Source, Span
from lamina.oci import typed
from lamina.oci.unreadable import UNREADABLE
from lamina.pipelines.changes import Decision
from lamina.pipelines.model import Agent, Artifacts, Assignment, Cache, Clone, Command, Image, Pipe, ScriptItem, Step, Text, Upload
from lamina.pipelines.plan import PlannedService, PlannedStep
from lamina.pipelines.resources import Memory
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.artifacts import Kept
from lamina.pipelines.variables import Variable, Variables
from lamina.version import __version__

FORMAT = 1
NOWHERE = Span(Source("<order>", ""), 0)


class BadOrder(LaminaError):
    """Made by another version of lamina, or by somebody else."""

    code = "pipeline/bad-order"
    default_exit = 76


class Parcel(msgspec.Struct, frozen=True):
    """A packed folder in the shared place: sha256 of its bytes, and how many they are."""

    digest: str
    size: int


class Left(msgspec.Struct, frozen=True):
    """One upload of one step, and where its files are."""

    kept: Kept
    parcel: Parcel


class Login(msgspec.Struct, frozen=True):
    """For one registry; as registry.auth.Credentials."""

    registry: str
    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Login({self.registry})"


class OrderedLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item of a script: a text, or a pipe by its name with its variables."""

    text: str = ""
    pipe: str = ""
    variables: tuple[tuple[str, str | tuple[str, ...]], ...] = ()


class OrderedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    run_as_user: int | None = None
    username: str | None = None
    password: str | None = None


class OrderedService(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    docker: bool
    memory: int
    image: OrderedImage | None = None
    variables: tuple[tuple[str, str], ...] = ()


class OrderedCache(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    path: str
    key_files: tuple[str, ...] = ()


class OrderedUpload(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    paths: tuple[str, ...]
    type: Literal["shared", "scoped", "test-reports"] = "shared"
    ignore_paths: tuple[str, ...] = ()
    depth: int | None = None
    capture_on: Literal["success", "failed", "always"] = "success"


class OrderedArtifacts(msgspec.Struct, frozen=True, omit_defaults=True):
    paths: tuple[str, ...] = ()
    download: bool | tuple[str, ...] = True
    uploads: tuple[OrderedUpload, ...] = ()


class OrderedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """A planned step without its places in the file, and without what only the coordinator needs."""

    number: int
    name: str
    script: tuple[OrderedLine, ...]
    after_script: tuple[OrderedLine, ...]
    image: OrderedImage
    size: str
    minutes: int
    memory: Memory
    services: tuple[OrderedService, ...]
    caches: tuple[OrderedCache, ...]
    variables: tuple[Variable, ...]
    environment: str = ""
    artifacts: OrderedArtifacts | None = None
    output_variables: tuple[str, ...] = ()
    parallel: tuple[int, int] | None = None


class Order(msgspec.Struct, frozen=True):
    """`given`: output variables of earlier steps. `left`: what the steps `before` left for this one. `clone` None: the clone directory is empty;
    `clone_words`: what it is. `project`: whose caches. `shared`: the shared place, opened with `shared_environment` over the worker's own.
    `registry_ca`: the text of a certificate authority. `docker_cli`: `auto` or `own`."""

    step: OrderedStep
    attempt: int
    given: tuple[Variable, ...]
    before: tuple[int, ...]
    left: tuple[Left, ...]
    clone: Parcel | None
    clone_words: str
    project: str
    title: str
    shared: str
    shared_environment: dict[str, str]
    image_map: dict[str, str]
    logins: tuple[Login, ...]
    insecure_registries: tuple[str, ...]
    registry_ca: str
    docker_cli: str
    own_network: bool
    save_on_failure: bool
    format: int = msgspec.field(default=FORMAT)
    lamina: str = msgspec.field(default=__version__)


class Done(msgspec.Struct, frozen=True):
    """How a job ended. `result` None: it could not begin, `error` and `hint` say why."""

    result: StepResult | None = None
    left: tuple[Left, ...] = ()
    error: str = ""
    hint: str = ""
    format: int = msgspec.field(default=FORMAT)
    lamina: str = msgspec.field(default=__version__)


class _Head(msgspec.Struct):
    format: int
    lamina: str = "?"


def encode(document: Order | Done) -> bytes:
    """BadOrder for an order with a text that is no Unicode; in an answer such letters are replaced."""
    if isinstance(document, Done):
        return typed.encode_json(document)
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        raise BadOrder(
            f"step {document.step.number} cannot travel: a text or a variable of it is not UTF-8", hint="run it without --engine"
        ) from None


def read_order(data: bytes) -> Order:
    """BadOrder."""
    _check(data, "the order")
    try:
        return typed.json(data, type=Order)
    except UNREADABLE as error:
        raise BadOrder(f"the order cannot be read: {_short(error)}") from error


def read_done(data: bytes) -> Done:
    """BadOrder."""
    _check(data, "the worker's answer")
    try:
        return typed.json(data, type=Done)
    except UNREADABLE as error:
        raise BadOrder(f"the worker's answer cannot be read: {_short(error)}") from error


def _check(data: bytes, what: str) -> None:
    try:
        head = typed.json(data, type=_Head)
    except UNREADABLE as error:
        raise BadOrder(f"{what} cannot be read: {_short(error)}") from error
    if head.format != FORMAT:
        raise BadOrder(
            f"{what} was made by lamina {head.lamina[:40]} in form {head.format}; lamina {__version__} here knows form {FORMAT}",
            hint="install one version of lamina on all workers and where the run starts",
        )


def _short(error: Exception) -> str:
    return str(error).partition(" - at `")[0][:200]


# From a plan


def order_step(planned: PlannedStep) -> OrderedStep:
    """What must travel of it."""
    step = planned.step
    return OrderedStep(
        number=planned.number,
        name=planned.name,
        script=tuple(_line(item) for item in step.script),
        after_script=tuple(_line(item) for item in step.after_script),
        image=_image(planned.image),
        size=planned.size,
        minutes=planned.minutes,
        memory=planned.memory,
        services=tuple(
            OrderedService(one.name, one.docker, one.memory, None if one.image is None else _image(one.image), one.variables)
            for one in planned.services
        ),
        caches=tuple(OrderedCache(one.name, one.path, _values(one.key_files)) for one in planned.caches),
        variables=planned.variables.winners,
        environment=planned.environment,
        artifacts=None if step.artifacts is None else _artifacts(step.artifacts),
        output_variables=_values(step.output_variables),
        parallel=planned.parallel,
    )


def _line(item: ScriptItem) -> OrderedLine:
    if isinstance(item, Command):
        return OrderedLine(item.text)
    if isinstance(item, Agent):
        raise BadOrder(f'the agent "{item.name}" runs at Atlassian only')
    return OrderedLine(pipe=item.name, variables=tuple((one.name, one.value) for one in item.variables))


def _image(image: Image) -> OrderedImage:
    return OrderedImage(image.name, image.run_as_user, image.username, image.password)


def _artifacts(artifacts: Artifacts) -> OrderedArtifacts:
    uploads = tuple(
        OrderedUpload(one.name, _values(one.paths), one.type, _values(one.ignore_paths), one.depth, one.capture_on)
        for one in artifacts.uploads
    )
    download = artifacts.download if isinstance(artifacts.download, bool) else _values(artifacts.download)
    return OrderedArtifacts(_values(artifacts.paths), download, uploads)


def _values(texts: Sequence[Text]) -> tuple[str, ...]:
    return tuple(text.value for text in texts)


# To a plan


def planned_step(order: OrderedStep) -> PlannedStep:
    """For `StepRun`. Its places in the file are nowhere."""
    step = Step(
        NOWHERE,
        "order",
        name=order.name,
        script=tuple(_item(line) for line in order.script),
        after_script=tuple(_item(line) for line in order.after_script),
        artifacts=None if order.artifacts is None else _planned_artifacts(order.artifacts),
        output_variables=_texts(order.output_variables),
    )
    return PlannedStep(
        number=order.number,
        name=order.name,
        step=step,
        span=NOWHERE,
        decision=Decision("run", ""),
        image=_planned_image(order.image),
        size=order.size,
        minutes=order.minutes,
        memory=order.memory,
        services=tuple(
            PlannedService(
                one.name, one.docker, one.memory, None if one.image is None else _planned_image(one.image), one.variables, NOWHERE
            )
            for one in order.services
        ),
        caches=tuple(Cache(one.name, NOWHERE, one.path, _texts(one.key_files)) for one in order.caches),
        clone=Clone(),
        runtime=None,
        runs_on=(),
        variables=Variables(order.variables),
        environment=order.environment,
        parallel=order.parallel,
    )


def _item(line: OrderedLine) -> ScriptItem:
    if line.pipe:
        return Pipe(line.pipe, NOWHERE, tuple(Assignment(name, value, NOWHERE) for name, value in line.variables))
    return Command(line.text, NOWHERE)


def _planned_image(image: OrderedImage) -> Image:
    return Image(image.name, NOWHERE, image.run_as_user, image.username, image.password)


def _planned_artifacts(artifacts: OrderedArtifacts) -> Artifacts:
    uploads = tuple(
        Upload(one.name, NOWHERE, _texts(one.paths), one.type, _texts(one.ignore_paths), one.depth, one.capture_on)
        for one in artifacts.uploads
    )
    download = artifacts.download if isinstance(artifacts.download, bool) else _texts(artifacts.download)
    return Artifacts(NOWHERE, _texts(artifacts.paths), download, uploads)


def _texts(values: Sequence[str]) -> tuple[Text, ...]:
    return tuple(Text(value, NOWHERE) for value in values)
