"""What Bitbucket takes and was surely not meant. Errors of the file come from `load`; these rules look at a file that loads.

Each rule is a function of the document that adds to the findings; RULES names them all. Codes are stable.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.pipelines import lintdocker, lintpatterns
from lamina.pipelines.check import PREDEFINED_CACHES
from lamina.pipelines.load import examine
from lamina.pipelines.model import Document, Parallel, Stage, Step
from lamina.pipelines.reading import Reader
from lamina.pipelines.tree import YamlError


def lint(text: str, name: str = "bitbucket-pipelines.yml") -> tuple[Diagnostic, ...]:
    """Every finding of a file in the order of the text; text that is not YAML is a finding too."""
    try:
        document, found = examine(text, name)
    except YamlError as error:
        return (Diagnostic("error", error.code, error.message, error.spans[0] if error.spans else None, error.hint),)
    if document is not None and not any(item.severity == "error" for item in found):
        found += lint_document(document)
    strict = (_strict(item) for item in found)
    return tuple(sorted(strict, key=lambda item: (item.span.line, item.span.column) if item.span else (0, 0)))


def lint_document(document: Document) -> tuple[Diagnostic, ...]:
    """The findings of RULES only."""
    reader = Reader()
    for rule in RULES:
        rule(document, reader)
    return tuple(reader.found)


def warnings(document: Document) -> tuple[Diagnostic, ...]:
    """What a run says before it starts: the warnings of reading and of RULES, without hints of style, in the order of the text."""
    found = (item for item in (*document.warnings, *lint_document(document)) if item.severity != "info" and item.code != "pipeline/unused")
    return tuple(sorted(found, key=lambda item: (item.span.line, item.span.column) if item.span else (0, 0)))


def _strict(item: Diagnostic) -> Diagnostic:
    """A key that is one slip away from a known one is an error here; a run ignores it, as Bitbucket does."""
    return replace(item, severity="error") if item.code == "pipeline/misspelt-key" else item


def unused_definitions(document: Document, reader: Reader) -> None:
    """Services, caches, shared pipelines, import sources and anchors that nothing names."""
    steps = [step for pipeline in document.pipelines() for step in pipeline.steps()]
    services = {name.value for step in steps for name in step.services}
    caches = {name.value for step in steps for name in step.caches}
    sources = {p.imported.reference.partition("@")[2] for p in document.pipelines() if p.imported is not None}
    defined = document.definitions
    for service in defined.services.values():
        if service.name not in services and not (service.docker and document.options.docker) and not _pipes(steps, service.docker):
            reader.warn(f"definitions.services.{service.name}", "no step uses the service", service.span, code="pipeline/unused")
    for cache in defined.caches.values():
        if cache.name not in caches:
            reader.warn(f"definitions.caches.{cache.name}", "no step uses the cache", cache.span, code="pipeline/unused")
    for source in defined.imports.values():
        if source.name not in sources:
            reader.warn(f"definitions.imports.{source.name}", "no pipeline is imported from it", source.span, code="pipeline/unused")
    if not document.export:
        for pipeline in defined.pipelines.values():
            told = "without `export: true` no other repository can import the pipeline"
            reader.warn(pipeline.path, told, pipeline.span, code="pipeline/unused")
    for anchor in document.anchors:
        if not anchor.used:
            reader.add("info", "pipeline/unused", "", f'no alias uses the anchor "&{anchor.name}"', anchor.span)


def _pipes(steps: list[Step], docker: bool) -> bool:
    """Pipes run on the docker service without naming it."""
    from lamina.pipelines.model import Pipe

    return docker and any(isinstance(item, Pipe) for step in steps for item in step.script)


def cache_and_artifact(document: Document, reader: Reader) -> None:
    """One folder as cache and as artifact: each step loads both, and which one wins is nobody's promise."""
    for step in _steps(document):
        if step.artifacts is None:
            continue
        patterns = [*step.artifacts.paths, *(path for upload in step.artifacts.uploads for path in upload.paths)]
        for name in step.caches:
            found = document.definitions.caches.get(name.value)
            path = found.path if found is not None else PREDEFINED_CACHES.get(name.value, "")
            folder = path.removeprefix("./").rstrip("/")
            for pattern in patterns:
                if folder and pattern.value.removeprefix("./").removesuffix("/**").removesuffix("/*").rstrip("/") == folder:
                    told = f'"{pattern.value}" is an artifact and the path of the cache "{name.value}"; both are unpacked into one folder'
                    reader.warn(step.path, told, pattern.span, "keep one of them", code="pipeline/cache-is-artifact")


def downloads(document: Document, reader: Reader) -> None:
    """`artifacts.download` names what an earlier step uploads."""
    for pipeline in document.pipelines():
        known: set[str] = set()
        for step in pipeline.steps():
            if step.artifacts is None:
                continue
            if not isinstance(step.artifacts.download, bool):
                for name in step.artifacts.download:
                    if name.value not in known:
                        told = f'no earlier step uploads an artifact named "{name.value}"'
                        reader.warn(f"{step.path}.artifacts.download", told, name.span, code="pipeline/unknown-artifact")
            known |= {upload.name for upload in step.artifacts.uploads}


def manual_in_parallel(document: Document, reader: Reader) -> None:
    """Nobody says what a manual step inside a group does."""
    for pipeline in document.pipelines():
        for item in pipeline.items:
            groups = (
                [item]
                if isinstance(item, Parallel)
                else [i for i in item.steps if isinstance(i, Parallel)]
                if isinstance(item, Stage)
                else []
            )
            for step in (step for group in groups for step in group.steps):
                if step.trigger == "manual":
                    told = "a manual step inside a parallel group: Bitbucket's pages do not say when the group ends"
                    reader.warn(step.path, told, step.at.get("trigger", step.span), code="pipeline/manual-in-parallel")


def fail_fast_alone(document: Document, reader: Reader) -> None:
    """fail-fast speaks of siblings."""
    for pipeline in document.pipelines():
        for item in pipeline.items:
            if isinstance(item, Step) and item.fail_fast is not None:
                told = "fail-fast has no effect outside a parallel group"
                reader.warn(item.path, told, item.at.get("fail-fast", item.span), code="pipeline/no-effect")


def child_cycles(document: Document, reader: Reader) -> None:
    """Custom pipelines that start each other without end; each circle is told where it closes."""
    children = {
        name: [step.custom for step in pipeline.steps() if step.custom is not None and step.type == "pipeline"]
        for name, pipeline in document.custom.items()
    }
    done: set[str] = set()
    for start in children:
        path: list[str] = []
        waiting = [(start, iter(children[start]))] if start not in done else []
        while waiting:
            name, rest = waiting[-1]
            if len(path) < len(waiting):
                path.append(name)
            child = next(rest, None)
            if child is None:
                done.add(name)
                waiting.pop()
                path.pop()
            elif child.value in path:
                circle = " -> ".join((*path[path.index(child.value) :][-8:], child.value))
                reader.error(
                    f"pipelines.custom.{name}",
                    f"the pipelines start each other without end: {circle}",
                    child.span,
                    code="pipeline/child-cycle",
                )
            elif child.value not in done and child.value in children:
                waiting.append((child.value, iter(children[child.value])))


def clone_options(document: Document, reader: Reader) -> None:
    """skip-ssl-verify is for self-hosted runners."""
    for step in _steps(document):
        if step.clone is not None and step.clone.skip_ssl_verify and not (step.runs_on or document.options.runs_on):
            place = step.clone.at["skip-ssl-verify"]
            reader.warn(step.path, "skip-ssl-verify counts on self-hosted runners only", place, code="pipeline/no-effect")


def repeated_names(document: Document, reader: Reader) -> None:
    """One cache or service twice in a step."""
    for step in _steps(document):
        for what, names in (("cache", step.caches), ("service", step.services)):
            seen: set[str] = set()
            for name in names:
                if name.value in seen:
                    reader.warn(step.path, f'the {what} "{name.value}" is listed twice', name.span, code="pipeline/listed-twice")
                seen.add(name.value)


def default_image(document: Document, reader: Reader) -> None:
    """Without an image Bitbucket takes one that is years old."""
    if document.image is None and (step := next((s for s in _steps(document) if s.image is None and s.type == "inline"), None)):
        told = "no image is given: Bitbucket takes atlassian/default-image:latest, an old Ubuntu"
        reader.add("info", "pipeline/default-image", step.path, told, step.span, "pin one: `image: atlassian/default-image:4`")


def _steps(document: Document) -> list[Step]:
    return [step for pipeline in document.pipelines() for step in pipeline.steps()]


RULES: tuple[Callable[[Document, Reader], None], ...] = (
    lintdocker.parallel_docker_cache,
    lintdocker.docker_cache_without_effect,
    lintdocker.saved_images,
    lintdocker.docker_without_service,
    lintpatterns.artifact_paths,
    lintpatterns.changed_paths,
    lintpatterns.cache_paths,
    lintpatterns.unreachable,
    lintpatterns.character_classes,
    cache_and_artifact,
    downloads,
    manual_in_parallel,
    fail_fast_alone,
    child_cycles,
    clone_options,
    repeated_names,
    unused_definitions,
    default_image,
)
