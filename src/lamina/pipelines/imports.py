"""Pipelines that come from other files of the same repository, and which imports cannot be followed here."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.pipelines.errors import StartError
from lamina.pipelines.load import load
from lamina.pipelines.model import Document, Pipeline

# Takes a path relative to the repository's root, gives the text, or None when there is no such file.
ReadFile = Callable[[str], str | None]


class Resolved(msgspec.Struct, frozen=True):
    """A pipeline and the file whose image, options and definitions hold for it. `shared` is the reference that needs Bitbucket, else empty."""

    document: Document
    pipeline: Pipeline
    shared: str = ""


def nothing(path: str) -> str | None:
    """A repository without other files."""
    return None


def resolve(document: Document, pipeline: Pipeline, read: ReadFile = nothing) -> Resolved:
    """Follows one import. Raises StartError when the file or the pipeline is not there, and what `load` raises for the file."""
    found = pipeline.imported
    if found is None:
        return Resolved(document, pipeline)
    name, _, source = found.reference.partition("@")
    if not source:
        return Resolved(document, pipeline, found.reference)
    where = document.definitions.imports[source]
    if not where.local:
        return Resolved(document, pipeline, f"{name} of {where.location}")
    path = where.location.removeprefix("./")
    if path.startswith("/") or ".." in path.split("/"):
        raise StartError(f'the import source "{source}" leaves the repository: {where.location}', spans=(where.span,))
    text = read(path)
    if text is None:
        raise StartError(
            f"{where.location} is not in the repository", spans=(where.span,), hint="the path is relative to the repository's root"
        )
    other = load(text, path)
    target = other.definitions.pipelines.get(name)
    if target is None:
        near = nearest(name, tuple(other.definitions.pipelines))
        hint = f'did you mean "{near}"?' if near else f"{path} has no definitions.pipelines.{name}"
        raise StartError(f'{path} has no pipeline named "{name}" under definitions.pipelines', spans=(found.span,), hint=hint)
    variables = found.variables or target.variables
    return Resolved(other, msgspec.structs.replace(target, variables=variables))
