"""What the published schema cannot say and the service refuses: names that are not defined, memory, manual first steps, too many steps."""

from __future__ import annotations

from lamina.pipelines import globs
from lamina.pipelines.model import Agent, Document, Pipe, Pipeline, Stage, Step, Text
from lamina.pipelines.reading import Reader
from lamina.pipelines.resources import memory, smallest

MAX_STEPS = 100
PREDEFINED_CACHES = {
    "docker": "",
    "composer": "~/.composer/cache",
    "dotnetcore": "~/.nuget/packages",
    "gradle": "~/.gradle/caches",
    "ivy2": "~/.ivy2/cache",
    "maven": "~/.m2/repository",
    "node": "node_modules",
    "pip": "~/.cache/pip",
    "sbt": "~/.sbt",
}
DOCKER = "docker"


def check(document: Document, reader: Reader) -> None:
    """Adds to the reader's findings."""
    for pipeline in document.pipelines():
        _pipeline(document, pipeline, reader)
    for trigger in document.triggers:
        for index, name in enumerate(trigger.pipelines):
            _custom(document, name, f"triggers.{trigger.event}", f"pipelines[{index}]", reader)


def _pipeline(document: Document, pipeline: Pipeline, reader: Reader) -> None:
    if pipeline.kind not in ("default", "custom", "shared"):
        try:
            globs.compile_glob(pipeline.name)
        except globs.GlobError as error:
            reader.error(pipeline.path, error.message, pipeline.span)
    steps = pipeline.steps()
    if len(steps) > MAX_STEPS:
        reader.error(
            pipeline.path,
            f"{len(steps)} steps, a pipeline may have at most {MAX_STEPS}",
            steps[MAX_STEPS].span,
            "a step of type pipeline starts a custom pipeline with steps of its own",
        )
    _first(pipeline, reader)
    if pipeline.imported is not None and "@" in pipeline.imported.reference:
        source = pipeline.imported.reference.partition("@")[2]
        if source not in document.definitions.imports:
            near = reader.near(source, tuple(document.definitions.imports))
            reader.error(
                f"{pipeline.path}.import",
                f'no import source named "{source}" under definitions.imports',
                pipeline.imported.span,
                f'did you mean "{near}"?' if near else None,
            )
    for step in steps:
        _step(document, step, reader)


def _first(pipeline: Pipeline, reader: Reader) -> None:
    if not pipeline.items:
        return
    one = pipeline.items[0]
    if isinstance(one, (Step, Stage)) and one.trigger == "manual":
        what = "stage" if isinstance(one, Stage) else "step"
        hint = (
            "the pipeline is started by hand already"
            if pipeline.kind == "custom"
            else "put it after an automatic one, or make the pipeline custom"
        )
        reader.error(one.path, f"the first {what} of a pipeline cannot be manual", one.at.get("trigger", one.span), hint)


def _step(document: Document, step: Step, reader: Reader) -> None:
    if step.type == "pipeline":
        if step.custom is not None:
            _custom(document, step.custom, step.path, "", reader)
        return
    services = document.definitions.services
    for index, name in enumerate(step.services):
        if name.value != DOCKER and name.value not in services:
            near = reader.near(name.value, (*services, DOCKER))
            told = f' (did you mean "{near}"?)' if near else ""
            reader.error(
                f"{step.path}.services[{index}]",
                f'no service named "{name.value}" under definitions.services{told}; only "docker" needs no definition',
                name.span,
            )
    for index, name in enumerate(step.caches):
        if name.value not in PREDEFINED_CACHES and name.value not in document.definitions.caches:
            near = reader.near(name.value, (*document.definitions.caches, *PREDEFINED_CACHES))
            told = f' (did you mean "{near}"?)' if near else ""
            reader.error(
                f"{step.path}.caches[{index}]",
                f'no cache named "{name.value}" under definitions.caches{told}',
                name.span,
                f"predefined are {', '.join(PREDEFINED_CACHES)}",
            )
    for key, script in (("script", step.script), ("after-script", step.after_script)):
        for index, item in enumerate(script):
            if isinstance(item, Pipe):
                _pipe(item, f"{step.path}.{key}[{index}]", reader)
            elif isinstance(item, Agent) and item.name not in document.definitions.agents:
                near = reader.near(item.name, tuple(document.definitions.agents))
                reader.error(
                    f"{step.path}.{key}[{index}]",
                    f'no agent named "{item.name}" under definitions.agents',
                    item.span,
                    f'did you mean "{near}"?' if near else None,
                )
    _memory(document, step, reader)


def _pipe(pipe: Pipe, path: str, reader: Reader) -> None:
    """`account/repo:version`, or docker:// and an image."""
    if pipe.name.startswith("docker://"):
        return
    if "/" not in pipe.name.partition(":")[0] or not pipe.name.partition(":")[2]:
        reader.warn(path, f'"{pipe.name}" is not account/repo:version and not docker://image', pipe.span)


def step_services(document: Document, step: Step) -> tuple[Text, ...]:
    """The step's services with the docker that options.docker adds; each name once."""
    names = {name.value: name for name in step.services}
    if document.options.docker and step.type == "inline" and not any(_is_docker(document, name) for name in names):
        names[DOCKER] = Text(DOCKER, document.options.at.get("docker", step.span))
    return tuple(names.values())


def _is_docker(document: Document, name: str) -> bool:
    service = document.definitions.services.get(name)
    return name == DOCKER or (service is not None and service.docker)


def _memory(document: Document, step: Step, reader: Reader) -> None:
    defined = document.definitions.services
    size = step.size or document.options.size
    runtime = step.runtime or document.options.runtime
    own = runtime.self_hosted.memory if runtime is not None and runtime.self_hosted is not None else None
    names = [name.value for name in step_services(document, step)]
    result = memory(size, tuple((name, defined[name].memory if name in defined else None) for name in names), own=own)
    if result.enough or not names:
        return
    fits = smallest(result.used)
    way = f"; `size: {fits}` is enough" if fits and own is None else ""
    place = step.at.get("services", step.at.get("size", step.span))
    reader.error(step.path, result.refusal(), place, result.arithmetic() + way, code="pipeline/memory")


def _custom(document: Document, name: Text, path: str, tail: str, reader: Reader) -> None:
    if name.value in document.custom:
        return
    near = reader.near(name.value, tuple(document.custom))
    told = f' (did you mean "{near}"?)' if near else ""
    if tail:
        reader.error(f"{path}.{tail}", f'no pipeline named "{name.value}" under pipelines.custom{told}', name.span)
    else:
        reader.error(
            path,
            f'a step of type pipeline needs custom: NAME of a defined custom pipeline ("{name.value}" is not defined){told}',
            name.span,
        )
