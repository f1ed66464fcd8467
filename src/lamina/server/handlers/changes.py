"""`changes=` of commit and import: Dockerfile instructions upon a config."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.dockerfile import DockerfileError, parse
from lamina.dockerfile.instructions import Copy, Run
from lamina.dockerfile.lower import Lowered, LoweringError, Options, ResolvedBase, lower
from lamina.engine.engine import own_platform
from lamina.oci.config import ContainerConfig, ImageConfig
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference

_BASE = "lamina.invalid/base"


def apply_changes(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """Raises DockerfileError, LoweringError."""
    if not changes:
        return config
    document = parse(f"FROM {_BASE}\n" + "\n".join(changes) + "\n", "changes")
    if document.errors:
        raise DockerfileError(document.errors)
    for instruction in document.stages[0].instructions:
        if isinstance(instruction, (Run, Copy)):
            raise LoweringError("changes set the image's config only", spans=(instruction.span,))
    platform = own_platform()
    image = ImageConfig(os=platform.os, architecture=platform.architecture, variant=platform.variant, config=config)
    name = str(Reference.parse(_BASE).with_default_tag())
    base = ResolvedBase(name, Digest("sha256:" + "0" * 64), image)
    lowered = lower(document, Options(platform=platform, build_platform=platform), {(name, platform): base})
    assert isinstance(lowered, Lowered)
    made = lowered.config.config
    # A stage gets a PATH and a folder of its own accord; a config is only changed where the changes say so.
    had_path = any(item.startswith("PATH=") for item in config.env or ())
    if not had_path and not any("PATH=" in change for change in changes):
        made = msgspec.structs.replace(made, env=tuple(item for item in made.env or () if not item.startswith("PATH=")) or None)
    if not any(change.lstrip().upper().startswith("WORKDIR") for change in changes):
        made = msgspec.structs.replace(made, working_dir=config.working_dir)
    return made
