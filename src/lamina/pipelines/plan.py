"""What would run, in order and with every default applied. Nothing is read, pulled or started."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import located
from lamina.diagnostics.span import Span
from lamina.pipelines import notlocal
from lamina.pipelines.changes import Decision, decide
from lamina.pipelines.check import PREDEFINED_CACHES, step_services
from lamina.pipelines.choose import Start, choose
from lamina.pipelines.errors import NotHere, StartError
from lamina.pipelines.imports import ReadFile, nothing, resolve
from lamina.pipelines.model import (
    AwsAccess,
    Cache,
    Clone,
    Document,
    Final,
    Image,
    Item,
    Parallel,
    Pipe,
    Pipeline,
    Runtime,
    Stage,
    Step,
    Text,
)
from lamina.pipelines.resources import SERVICE_DEFAULT, Memory, memory
from lamina.pipelines.variables import Facts, Variable, Variables, answer, expand, layer, own, own_of_step

DEFAULT_IMAGE = "atlassian/default-image:latest"
DEFAULT_MINUTES = 120
DEFAULT_DEPTH = 50
MAX_PLANNED = 1000
MAX_CHILDREN = 8  # levels
_ALWAYS = Decision("run", "")


class Request(msgspec.Struct, frozen=True):
    """`changed`: paths that the last commit (a pull request: all its commits) changed, None when not known. `answers`: values for a custom pipeline."""

    start: Start
    facts: Facts = Facts()
    variables: tuple[Variable, ...] = ()
    answers: Mapping[str, str] = {}
    changed: tuple[str, ...] | None = None


class PlannedService(msgspec.Struct, frozen=True):
    """`memory` in MB. `image` None: lamina's own docker service."""

    name: str
    docker: bool
    memory: int
    image: Image | None
    variables: tuple[tuple[str, str], ...]
    span: Span


class PlannedStep(msgspec.Struct, frozen=True):
    """`number` counts from 1 over the whole run. `parallel` is (index from 0, count). `minutes` is the most that the step may take. `clone.depth` 0 is everything.
    `fail_fast`: its failure stops the siblings of its parallel group (the group's own fail-fast is in it already). `decision` "skip" comes from the stage too.
    `child` is filled for a step of type pipeline. `span` points to the word `step`."""

    number: int
    name: str
    step: Step
    span: Span
    decision: Decision
    image: Image
    size: str
    minutes: int
    memory: Memory
    services: tuple[PlannedService, ...]
    caches: tuple[Cache, ...]
    clone: Clone
    runtime: Runtime | None
    runs_on: tuple[Text, ...]
    variables: Variables
    manual: bool = False
    fail_fast: bool = False
    parallel: tuple[int, int] | None = None
    stage: str = ""
    environment: str = ""
    final: bool = False
    child: Plan | None = None

    @property
    def docker(self) -> bool:
        return any(service.docker for service in self.services)

    @property
    def pipes(self) -> bool:
        """A pipe runs on a docker service too, without naming one."""
        return any(isinstance(item, Pipe) for item in (*self.step.script, *self.step.after_script))


class PlannedGroup(msgspec.Struct, frozen=True):
    """Steps that start together. `fail_fast`: the first failure stops the others."""

    steps: tuple[PlannedStep, ...]
    fail_fast: bool
    span: Span


class PlannedStage(msgspec.Struct, frozen=True):
    name: str
    items: tuple[PlannedStep | PlannedGroup, ...]
    decision: Decision
    manual: bool
    environment: str
    span: Span


PlannedItem = PlannedStep | PlannedGroup | PlannedStage


class Plan(msgspec.Struct, frozen=True):
    """`pipeline` None: nothing starts. `problems`: what is not as on Bitbucket; an error among them means that it cannot run here."""

    reason: str
    pipeline: Pipeline | None = None
    document: Document | None = None
    items: tuple[PlannedItem, ...] = ()
    problems: tuple[Diagnostic, ...] = ()

    def steps(self) -> tuple[PlannedStep, ...]:
        """All steps of this pipeline in order; those of children are in `child`."""
        return tuple(step for item in self.items for step in _steps(item))

    def must_run_here(self) -> None:
        """Raises NotHere with every reason why it cannot."""
        errors = tuple(item for item in self.problems if item.severity == "error")
        if errors:
            raise NotHere(errors)


def plan(document: Document, request: Request, read: ReadFile = nothing) -> Plan:
    """Raises StartError (no such custom pipeline, a missing value), ExpressionError, and what an imported file is refused for."""
    choice = choose(document, request.start)
    if choice.pipeline is None:
        return Plan(choice.reason, problems=choice.notes)
    made = _Planner(document, request, read).pipeline(document, choice.pipeline, choice.reason, request.answers, ())
    return msgspec.structs.replace(made, problems=_once((*choice.notes, *made.problems)))


def plan_pipeline(document: Document, pipeline: Pipeline, request: Request, read: ReadFile = nothing) -> Plan:
    """The plan of a pipeline whatever would start it."""
    return _Planner(document, request, read).pipeline(document, pipeline, "asked for", request.answers, ())


def _steps(item: PlannedItem) -> tuple[PlannedStep, ...]:
    if isinstance(item, PlannedStep):
        return (item,)
    if isinstance(item, PlannedGroup):
        return item.steps
    return tuple(step for inner in item.items for step in _steps(inner))


def _once(items: tuple[Diagnostic, ...]) -> tuple[Diagnostic, ...]:
    return tuple(dict.fromkeys(items))


class _Planner:
    def __init__(self, document: Document, request: Request, read: ReadFile) -> None:
        self.request = request
        self.read = read
        self.count = 0

    def pipeline(self, document: Document, pipeline: Pipeline, reason: str, answers: Mapping[str, str], parents: tuple[str, ...]) -> Plan:
        resolved = resolve(document, pipeline, self.read)
        if resolved.shared:
            problem = notlocal.shared_import(resolved.pipeline, resolved.shared)
            return Plan(reason, pipeline, document, problems=(problem,))
        given = (*own(self.request.facts), *self.request.variables, *answer(resolved.pipeline.variables, answers))
        inner = _PipelinePlanner(self, resolved.document, given, parents)
        items = tuple(inner.item(item) for item in resolved.pipeline.items)
        return Plan(reason, resolved.pipeline, resolved.document, items, _once(tuple(inner.problems)))

    def number(self, span: Span) -> int:
        self.count += 1
        if self.count > MAX_PLANNED:
            raise StartError(f"the child pipelines make more than {MAX_PLANNED} steps", spans=(span,))
        return self.count


class _PipelinePlanner:
    """One pipeline of the run, with the document whose definitions hold for it."""

    def __init__(self, whole: _Planner, document: Document, given: tuple[Variable, ...], parents: tuple[str, ...]) -> None:
        self.whole = whole
        self.document = document
        self.given = given
        self.parents = parents
        self.coming: frozenset[str] = frozenset()
        self.problems: list[Diagnostic] = []

    def item(self, item: Item) -> PlannedItem:
        if isinstance(item, Step):
            return self.after(self.step(item))
        if isinstance(item, Final):
            return self.step(item.step, final=True)
        if isinstance(item, Parallel):
            return self.group(item, _ALWAYS, "", "")
        return self.stage(item)

    def after(self, planned: PlannedStep) -> PlannedStep:
        """Later steps may see what this one exports."""
        self.coming |= {name.value for name in planned.step.output_variables}
        return planned

    def group(self, item: Parallel, decision: Decision, stage: str, environment: str) -> PlannedGroup:
        count = len(item.steps)
        steps = tuple(
            self.step(step, parallel=(index, count), fail_fast=item.fail_fast, within=decision, stage=stage, environment=environment)
            for index, step in enumerate(item.steps)
        )
        for planned in steps:
            self.after(planned)
        return PlannedGroup(steps, item.fail_fast, item.span)

    def stage(self, item: Stage) -> PlannedStage:
        environment = _name(item.deployment or item.environment)
        with located(item.span):
            decision = decide(item.condition, self.whole.request.changed, layer(self.given, environment).values(), self.coming)
        name = item.name or "Stage"
        inner = tuple(
            self.group(one, decision, name, environment)
            if isinstance(one, Parallel)
            else self.after(self.step(one, within=decision, stage=name, environment=environment))
            for one in item.steps
        )
        return PlannedStage(name, inner, decision, item.trigger == "manual", environment, item.span)

    def step(
        self,
        step: Step,
        *,
        parallel: tuple[int, int] | None = None,
        fail_fast: bool = False,
        within: Decision = _ALWAYS,
        stage: str = "",
        environment: str = "",
        final: bool = False,
    ) -> PlannedStep:
        number = self.whole.number(step.span)
        options = self.document.options
        environment = _name(step.deployment or step.environment) or environment
        variables = layer((*self.given, *own_of_step(parallel=parallel, environment=environment)), environment)
        values = variables.values()
        with located(step.span):
            decision = within
            if decision.verdict != "skip":
                own_decision = decide(step.condition, self.whole.request.changed, values, self.coming)
                decision = within if within.verdict == "later" and own_decision.verdict == "run" else own_decision
        size = step.size or options.size or "1x"
        runtime = step.runtime or options.runtime
        services = tuple(self.service(name, values) for name in step_services(self.document, step))
        own_memory = runtime.self_hosted.memory if runtime is not None and runtime.self_hosted is not None else None
        planned = PlannedStep(
            number=number,
            name=step.name or f"Step {number}",
            step=step,
            span=step.span,
            decision=decision,
            image=expand_image(step.image or self.document.image or Image(DEFAULT_IMAGE, step.span), lambda text: expand(text, values)),
            size=size,
            minutes=step.max_time or options.max_time or DEFAULT_MINUTES,
            memory=memory(size, tuple((service.name, service.memory) for service in services), own=own_memory),
            services=services,
            caches=tuple(self.cache(name) for name in step.caches),
            clone=merge_clone(self.document.clone, step.clone),
            runtime=runtime,
            runs_on=step.runs_on or options.runs_on,
            variables=variables,
            manual=step.trigger == "manual",
            fail_fast=bool(fail_fast if step.fail_fast is None else step.fail_fast),
            parallel=parallel,
            stage=stage,
            environment=environment,
            final=final,
            child=self.child(step, values),
        )
        if decision.verdict != "skip":
            self.problems += notlocal.problems(planned.step, planned.image, runtime, planned.runs_on, environment, self.given)
            if planned.child is not None:
                self.problems += planned.child.problems
        return planned

    def service(self, name: Text, values: Mapping[str, str]) -> PlannedService:
        found = self.document.definitions.services.get(name.value)
        if found is None:
            return PlannedService(name.value, True, SERVICE_DEFAULT, None, (), name.span)
        image = None if found.image is None else expand_image(found.image, lambda text: expand(text, values))
        variables = tuple((one.name, expand(str(one.value), values)) for one in found.variables)
        return PlannedService(name.value, found.docker, found.memory or SERVICE_DEFAULT, image, variables, name.span)

    def cache(self, name: Text) -> Cache:
        found = self.document.definitions.caches.get(name.value)
        return Cache(name.value, name.span, PREDEFINED_CACHES[name.value]) if found is None else found

    def child(self, step: Step, values: Mapping[str, str]) -> Plan | None:
        if step.custom is None or step.type != "pipeline":
            return None
        name = step.custom.value
        if name in self.parents or len(self.parents) >= MAX_CHILDREN:
            told = " -> ".join((*self.parents, name))
            raise StartError(f"the child pipelines start each other without end: {told}", spans=(step.custom.span,))
        inputs = {one.name: expand(str(one.value), values) for one in step.input_variables}
        with located(step.custom.span):
            return self.whole.pipeline(
                self.document, self.document.custom[name], f'child of "{step.name or step.path}"', inputs, (*self.parents, name)
            )


def _name(text: Text | None) -> str:
    return "" if text is None else text.value


def expand_image(image: Image, expanded: Callable[[str], str]) -> Image:
    """`$NAME` in every field that Bitbucket expands."""

    def maybe(text: str | None) -> str | None:
        return None if text is None else expanded(text)

    aws = None if image.aws is None else AwsAccess(maybe(image.aws.access_key), maybe(image.aws.secret_key), maybe(image.aws.oidc_role))
    return Image(expanded(image.name), image.span, image.run_as_user, maybe(image.username), maybe(image.password), image.email, aws)


def merge_clone(general: Clone, own: Clone | None) -> Clone:
    """A step's keys over the global ones, one by one, with Bitbucket's defaults below."""
    first = own or Clone()

    def pick(name: str, default: bool | int) -> bool | int:
        for one in (first, general):
            value: bool | int | None = getattr(one, name)
            if value is not None:
                return value
        return default

    return Clone(
        enabled=bool(pick("enabled", True)),
        depth=int(pick("depth", DEFAULT_DEPTH)),
        lfs=bool(pick("lfs", False)),
        skip_ssl_verify=bool(pick("skip_ssl_verify", False)),
        at={**general.at, **first.at},
    )
