"""`lamina import --change`: Dockerfile instructions that set an image's config."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.dockerfile import DockerfileError, parse
from lamina.dockerfile.instructions import Copy, Run
from lamina.dockerfile.lower import Lowered, LoweringError, Options, lower
from lamina.oci.config import ContainerConfig, ImageConfig
from lamina.oci.platform import Platform


def changed_config(platform: Platform, changes: Sequence[str]) -> ImageConfig:
    """The config of an imported image: empty but for what `changes` say. Raises DockerfileError, LoweringError."""
    plain = ImageConfig(os=platform.os, architecture=platform.architecture, variant=platform.variant, config=ContainerConfig())
    if not changes:
        return plain
    document = parse("FROM scratch\n" + "\n".join(changes) + "\n", "--change")
    if document.errors:
        raise DockerfileError(document.errors)
    for instruction in document.stages[0].instructions:
        if isinstance(instruction, (Run, Copy)):
            raise LoweringError(
                "--change sets the image's config only", spans=(instruction.span,), hint="CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER …"
            )
    lowered = lower(document, Options(platform=platform, build_platform=platform), {})
    assert isinstance(lowered, Lowered)
    config = lowered.config.config
    if not any(change.upper().lstrip().startswith("ENV") for change in changes):
        config = msgspec.structs.replace(config, env=None)
    if not any(change.upper().lstrip().startswith("WORKDIR") for change in changes):
        config = msgspec.structs.replace(config, working_dir="")
    return msgspec.structs.replace(plain, config=config)
