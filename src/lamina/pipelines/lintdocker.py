"""Lint rules about docker: the cache that parallel steps fight over, caches without effect, images saved by hand."""

from __future__ import annotations

import re

from lamina.diagnostics.span import Span
from lamina.pipelines.check import DOCKER
from lamina.pipelines.model import Cache, Command, Document, Parallel, Pipe, Stage, Step, steps_of
from lamina.pipelines.reading import Reader

BUILDKIT = re.compile(r"\bDOCKER_BUILDKIT=[\"']?(?:1|true)\b|\bdocker\s+buildx\b|--cache-to\b")
_SAVE = re.compile(r"\bdocker\s+(?:image\s+)?save\b[^\n]*")
_BY_ID = re.compile(r"\$\(\s*docker\s+(?:images|image\s+ls)\b[^)]*-[a-z]*q|`\s*docker\s+(?:images|image\s+ls)\b[^`]*-[a-z]*q")
_USES = re.compile(
    r"(?:^|[;&|(]|\bsudo\s)\s*docker\s+(?:build|buildx|run|push|pull|login|image|images|save|load|tag|compose|exec|ps)\b", re.MULTILINE
)


def groups(document: Document) -> list[Parallel]:
    """Every parallel group, those of stages too."""
    found: list[Parallel] = []
    for pipeline in document.pipelines():
        for item in pipeline.items:
            if isinstance(item, Parallel):
                found.append(item)
            elif isinstance(item, Stage):
                found += [inner for inner in item.steps if isinstance(inner, Parallel)]
    return found


def colliding(group: Parallel) -> tuple[Step, ...]:
    """The steps of a group that share the predefined docker cache, if there are several."""
    found = tuple(step for step in group.steps if any(name.value == DOCKER for name in step.caches))
    return found if len(found) > 1 else ()


def parallel_docker_cache(document: Document, reader: Reader) -> None:
    if DOCKER in document.definitions.caches:
        return
    for group in groups(document):
        found = colliding(group)
        if found:
            reader.warn(
                group.path.removesuffix(".parallel"),
                f'{len(found)} parallel steps share the predefined "docker" cache; on Bitbucket all write one docker.tar, one wins and the others log '
                'Cache "docker: docker.tar": Upload failed, so only one image stays cached; give each step its own cache (or let the runner key it per step)',
                _docker_cache(found[0]),
                "`lamina pipeline fix` writes such a file; `lamina pipeline run` shares the cache without a collision",
                code="pipeline/docker-cache-in-parallel",
            )


def _docker_cache(step: Step) -> Span:
    return next(name.span for name in step.caches if name.value == DOCKER)


def commands(step: Step) -> list[Command]:
    """The plain commands of both scripts."""
    return [item for item in (*step.script, *step.after_script) if isinstance(item, Command)]


def _all_steps(document: Document) -> list[Step]:
    return [step for pipeline in document.pipelines() for item in pipeline.items for step in steps_of(item)]


def docker_cache_without_effect(document: Document, reader: Reader) -> None:
    """The docker cache holds `docker save`d images of the classic builder: BuildKit and runtime v3 do not use it."""
    for step in _all_steps(document):
        if DOCKER in document.definitions.caches or not any(name.value == DOCKER for name in step.caches):
            continue
        place = _docker_cache(step)
        runtime = step.runtime or document.options.runtime
        if runtime is not None and runtime.cloud is not None and runtime.cloud.version == "3":
            told = "runtime version 3 ignores the docker cache"
            reader.warn(step.path, told, place, "use buildx with --cache-to and --cache-from", code="pipeline/docker-cache-on-v3")
        buildkit = next((item for item in commands(step) if BUILDKIT.search(item.text)), None)
        if buildkit is not None:
            told = f"BuildKit (line {buildkit.span.line}) does not use the docker cache: it holds saved images, not BuildKit's store"
            reader.warn(
                step.path, told, place, "use --cache-from with an image, or drop the cache", code="pipeline/docker-cache-with-buildkit"
            )
        services = {name.value for name in step.services}
        defined = document.definitions.services
        docker = document.options.docker or DOCKER in services or any(name in defined and defined[name].docker for name in services)
        if not docker and not any(isinstance(item, Pipe) for item in step.script):
            told = "the docker cache has no effect in a step without the docker service"
            reader.warn(step.path, told, place, "add `services: [docker]`", code="pipeline/docker-cache-without-docker")


def saved_images(document: Document, reader: Reader) -> None:
    """`docker save` into a custom cache by hand."""
    steps = _all_steps(document)
    for cache in document.definitions.caches.values():
        users = [step for step in steps if any(name.value == cache.name for name in step.caches)]
        saving = [text for step in users for text in _saves(step, cache)]
        if not saving:
            continue
        parts = []
        if not cache.key_files:
            parts.append("no key.files, so the first docker save is kept up to 7 days and later layers are never saved")
        if any(_BY_ID.search(text) for text in saving):
            parts.append("docker save by image id also drops the tags" if parts else "docker save by image id drops the tags")
        if parts:
            hint = f"add key.files with what the image is made of (Dockerfile, lock files), save by name, and put {cache.path} into .dockerignore"
            reader.warn(f"caches.{cache.name}", "; ".join(parts), cache.span, hint, code="pipeline/saved-images")
        for group in groups(document):
            sharing = [step for step in group.steps if _saves(step, cache)]
            if len(sharing) > 1:
                told = f'{len(sharing)} parallel steps save images into the cache "{cache.name}"; one wins and the others stay cold'
                reader.warn(group.path.removesuffix(".parallel"), told, sharing[0].span, code="pipeline/docker-cache-in-parallel")


def _saves(step: Step, cache: Cache) -> list[str]:
    """The commands of a step that save images into the cache's folder."""
    if not any(name.value == cache.name for name in step.caches):
        return []
    folder = cache.path.rstrip("/").rpartition("/")[2]
    return [match[0] for item in commands(step) for match in _SAVE.finditer(item.text) if folder and folder in item.text]


def docker_without_service(document: Document, reader: Reader) -> None:
    """docker commands need the docker service, or a pipe that brings it, or an own runner that has docker."""
    if document.options.docker:
        return
    defined = document.definitions.services
    for step in _all_steps(document):
        names = {name.value for name in step.services}
        if DOCKER in names or any(name in defined and defined[name].docker for name in names) or step.runs_on or document.options.runs_on:
            continue
        found = next((item for item in commands(step) if _USES.search(item.text)), None)
        if found is not None and not any(isinstance(item, Pipe) for item in step.script):
            told = "docker is used in a step without the docker service"
            reader.warn(step.path, told, found.span, "add `services: [docker]`", code="pipeline/docker-without-service")
