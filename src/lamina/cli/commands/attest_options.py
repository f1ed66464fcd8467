"""`--provenance` and `--sbom`, of `build` and `push`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from lamina.engine.request import BuildRequest

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--provenance",
        metavar="min|max",
        help="Attach SLSA provenance beside the image (max: arguments and steps too). Off by default.",
    ),
    click.option(
        "--sbom",
        multiple=True,
        metavar="spdx|cyclonedx",
        help="Attach a list of the packages in the image. Off by default.",
    ),
]


def attest_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def attested(request: BuildRequest, provenance: str | None, sbom: tuple[str, ...]) -> BuildRequest:
    """The request with attestations. BadOption where no output would carry them, BadOutput for a value that is not known."""
    from lamina.cli.inputs import BadOption
    from lamina.engine.attest.making import parse_wanted

    wanted = parse_wanted(provenance, sbom)
    if wanted and not any(output.type in ("registry", "oci") for output in request.outputs):
        option = "--provenance" if wanted.provenance else "--sbom"
        raise BadOption(f"{option} needs an output that carries it", hint="--push, or --output type=oci,dest=FILE")
    return msgspec.structs.replace(request, provenance=wanted.provenance, sbom=wanted.sbom)
