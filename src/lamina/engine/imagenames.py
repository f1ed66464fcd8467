"""Where a Dockerfile names the image that an error is about."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.diagnostics.span import Span
from lamina.dockerfile.instructions import Document
from lamina.dockerfile.lower.stages import sources
from lamina.oci.reference import Reference


def point(error: LaminaError, document: Document, reference: str) -> None:
    """The error points at the first instruction that names the image; a name that looks like a stage's gets that as a hint."""
    place = next(((name, span) for name, span in _image_names(document) if _means(name, reference)), None)
    error.spans = error.spans or (place[1] if place is not None else document.stages[0].from_.span,)
    if place is None:
        return
    if place[0] not in error.message:
        error.message = f"{place[0]}: {error.message}"
    near = nearest(place[0].lower(), [stage.name for stage in document.stages if stage.name])
    if near is not None:
        error.hint = f"did you mean the stage {near!r}?"


def _image_names(document: Document) -> Iterator[tuple[str, Span]]:
    for stage in document.stages:
        yield stage.from_.base, stage.from_.span
        for instruction in stage.instructions:
            for name, _ in sources(instruction):
                yield name, instruction.span


def _means(name: str, reference: str) -> bool:
    try:
        return str(Reference.parse(name).with_default_tag()) == reference
    except LaminaError:
        return False
