"""`--provenance` and `--sbom`, of `build` and `push`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from lamina.cli.options import Option

if TYPE_CHECKING:
    from lamina.engine.request import BuildRequest

F = TypeVar("F", bound=Callable[..., Any])

ATTEST = (
    Option(
        ("--provenance",),
        "provenance",
        "Attach SLSA provenance beside the image (max: arguments and steps too). Off by default.",
        metavar="min|max",
    ),
    Option(
        ("--sbom",),
        "sbom",
        "Attach a list of the packages in the image. Off by default.",
        many=True,
        metavar="spdx|cyclonedx",
    ),
)


def attest_options(function: F) -> F:
    from lamina.cli.commands.declaring import declared

    return declared(ATTEST)(function)


def attested(request: BuildRequest, provenance: str | None, sbom: tuple[str, ...]) -> BuildRequest:
    """The request with attestations. BadOption where no output would carry them, BadOutput for a value that is not known."""
    from lamina.cli.inputs import BadOption
    from lamina.engine.attest.making import parse_wanted

    wanted = parse_wanted(provenance, sbom)
    if wanted and not any(output.type in ("registry", "oci") for output in request.outputs):
        option = "--provenance" if wanted.provenance else "--sbom"
        raise BadOption(f"{option} needs an output that carries it", hint="--push, or --output type=oci,dest=FILE")
    return msgspec.structs.replace(request, provenance=wanted.provenance, sbom=wanted.sbom)
