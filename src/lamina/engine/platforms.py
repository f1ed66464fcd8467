"""Builds for several platforms: one after the other, delivered together as one index. A platform needs no machine of its own as long as
nothing has to run on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.request import BuildRequest, BuildResult, Notice, Output, PlanResult, Report
from lamina.oci import typed
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.solver.cancel import CancelToken
from lamina.store.refs import Image

if TYPE_CHECKING:
    from lamina.engine.engine import Engine

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_QEMU: Mapping[str, str] = {
    "amd64": "x86_64", "arm64": "aarch64", "386": "i386", "mips64le": "mips64el", "mipsle": "mipsel", "loong64": "loongarch64",
}  # fmt: skip  # where Go's name is not QEMU's


class ForeignPlatform(LaminaError):
    """A RUN of a platform whose programs this machine cannot execute."""

    code = "engine/foreign-platform"
    default_exit = 69


def check_runs_here(platform: Platform, binfmt: Path = _BINFMT) -> None:
    """Raises ForeignPlatform when neither the processor nor an emulator that the kernel knows (binfmt_misc) runs it."""
    from lamina.engine.engine import own_platform

    own = own_platform()
    if own.runs(platform):
        return
    name = _QEMU.get(platform.architecture, platform.architecture)
    try:
        entry = (binfmt / f"qemu-{name}").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        entry = []
    # Only an interpreter that the kernel opened at registration (F) is found from within an image.
    if platform.os == "linux" and entry[:1] == ["enabled"] and any(line.startswith("flags:") and "F" in line for line in entry):
        return
    raise ForeignPlatform(
        f"{platform} cannot run on this machine ({own})",
        hint=f"build it on such a machine or register an emulator (qemu-{name} in binfmt_misc, with flag F); COPY, ADD and settings need neither",
    )


def build_each(engine: Engine, request: BuildRequest, report: Report, cancel: CancelToken | None) -> BuildResult:
    """Every platform of the request; images in its order. Foreign ones come first, so that one which is refused costs nothing else.

    Nothing is exported unless all of them were built.
    """
    from lamina.engine.engine import own_platform

    for output in request.outputs:
        if output.type in ("tar", "local", "docker"):
            from lamina.engine.exporters.output import BadOutput

            raise BadOutput(f"type={output.type} takes one platform", hint="type=oci and type=registry take several")
    wanted = tuple(dict.fromkeys(platform.normalised() for platform in request.platforms))
    own = own_platform()
    kept = not request.outputs or any(output.type == "image" for output in request.outputs)
    names = tuple(str(Reference.parse(tag).with_default_tag()) for tag in request.tags)
    done: dict[Platform, BuildResult] = {}
    on_receipt, engine.on_receipt = engine.on_receipt, None
    try:
        for platform in sorted(wanted, key=own.runs):
            report(Notice("info", f"platform {platform}", "platform"))
            inner = msgspec.structs.replace(request, platforms=(platform,), tags=request.tags if kept else (), outputs=(Output("image"),))
            done[platform] = engine.build(inner, report, cancel, one_of_several=True)
    finally:
        engine.on_receipt = on_receipt
    results = [done[platform] for platform in wanted]
    warnings = list(dict.fromkeys(text for result in results for text in result.warnings))

    def warn(text: str) -> None:
        warnings.append(text)
        report(Notice("warning", text))

    found = [engine.store.images.by_id(result.images[0].id) for result in results]
    images = [msgspec.structs.replace(image, names=names) for image in found if image is not None]
    if kept:
        engine.store.images.only(names, {image.platform for image in images})
    _remember_all(engine, images, request, names if kept else ())
    pushed = engine.export(images, request, report, warn)
    return BuildResult(
        results[-1].build_id,
        tuple(step for result in results for step in result.steps),
        tuple(msgspec.structs.replace(image, tags=names) for result in results for image in result.images),
        sum(result.seconds for result in results),
        tuple(warnings),
        pushed,
    )


def _remember_all(engine: Engine, images: Sequence[Image], request: BuildRequest, names: Sequence[str]) -> None:
    """What is to be repeated is the whole request, not one platform's part of it."""
    from lamina.engine.freshness.origins import read
    from lamina.engine.freshness.recipe import recipe_of

    recipe = recipe_of(request)
    for image in images:
        origin = read(engine.store.origins.of(image.id, names[0] if names else ""))
        if origin is not None:
            engine.store.origins.put(image.id, names, typed.encode_json(msgspec.structs.replace(origin, recipe=recipe)))


def plan_each(engine: Engine, request: BuildRequest, report: Report) -> PlanResult:
    """The plans of every platform, in the request's order, as one."""
    plans = [
        engine.plan(msgspec.structs.replace(request, platforms=(platform,)), report)
        for platform in dict.fromkeys(platform.normalised() for platform in request.platforms)
    ]
    return PlanResult(
        tuple(step for plan in plans for step in plan.steps),
        all(plan.complete for plan in plans),
        sum(plan.fetch_bytes for plan in plans),
        sum(plan.seconds_at_stake for plan in plans),
        tuple(dict.fromkeys(text for plan in plans for text in plan.warnings)),
        tuple(dict.fromkeys(image for plan in plans for image in plan.images)),
    )
