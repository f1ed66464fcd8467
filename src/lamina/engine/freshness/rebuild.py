"""`lamina outdated --rebuild`: what is outdated is built again, an image after those that it stands on. Where a rebuilt base comes out with the
same layers and settings, what stands on it is cut off and not built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.origins import content_of, read
from lamina.engine.freshness.outdated import ImageReport, Outdated
from lamina.engine.freshness.recipe import NOTHING_GIVEN, Given, request_of
from lamina.engine.request import BuildRequest, BuildResult, Report
from lamina.oci import typed
from lamina.oci.config import parse_config
from lamina.oci.digest import Digest
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.engine.engine import Engine

Outcome = Literal["rebuilt", "same", "cut-off", "impossible", "failed", "stopped"]
"""same: built again and equal. stopped: something that it stands on could not be rebuilt."""


Build = Callable[[BuildRequest, Report], BuildResult]


class Rebuilt(msgspec.Struct, frozen=True, omit_defaults=True):
    names: tuple[str, ...]
    outcome: Outcome
    image: Digest | None = None
    ran: int = 0
    cached: int = 0
    why: str = ""


def rebuild(
    engine: Engine,
    found: Outdated,
    report: Report,
    *,
    push: bool = False,
    done: Callable[[Rebuilt], None] | None = None,
    given: Given = NOTHING_GIVEN,
    build: Build | None = None,
) -> tuple[Rebuilt, ...]:
    """In the order of `found`. One image's failure stops what stands on it and nothing else. `push` repeats a build's --push; `given` is what
    the builds have beside what was kept of them, as it was for `found`. `build`: in place of `engine.build`, to look on."""
    results: list[Rebuilt] = []
    stuck: dict[str, str] = {}
    built: dict[tuple[bytes, tuple[str, ...]], BuildResult] = {}  # one build may be several images: one for each platform
    for image in found.images:
        if image.verdict == "cut-off":
            _settle(engine.store, image)
        if image.verdict not in ("outdated", "follows"):
            continue
        result = _one(engine, image, report, push, given, stuck, built, build or engine.build)
        if result.outcome in ("impossible", "failed", "stopped"):
            stuck |= {name: _shown(image.names) for name in image.names}
        results.append(result)
        if done:
            done(result)
    return tuple(results)


def _one(
    engine: Engine,
    image: ImageReport,
    report: Report,
    push: bool,
    given: Given,
    stuck: dict[str, str],
    built: dict[tuple[bytes, tuple[str, ...]], BuildResult],
    build: Build,
) -> Rebuilt:
    held = next((stuck[base.reference] for base in image.bases if base.reference in stuck and base.verdict == "follows"), None)
    if held is not None and image.verdict == "follows":
        return Rebuilt(image.names, "stopped", why=f"{held} was not rebuilt")
    if image.cannot is not None and image.verdict == "outdated":
        return Rebuilt(image.names, "impossible", why=image.cannot)
    doc = engine.store.origins.of(image.image, image.names[0])
    origin = read(doc)
    if origin is None or doc is None:
        return Rebuilt(image.names, "impossible", why="nothing is known of how it was built")
    if image.verdict == "follows" and all(
        _as_before(engine.store, use.reference, use.platform, use.content) for use in origin.bases if use.top is None
    ):
        _settle(engine.store, image)
        return Rebuilt(image.names, "cut-off", image.image, why="what it stands on came out equal")
    key = (typed.encode_json(origin.recipe), image.names)
    if key in built:
        return _told(image, built[key])
    try:
        result = built[key] = build(request_of(origin.recipe, image.names, push=push, given=given), report)
    except LaminaError as error:
        kind: Outcome = "impossible" if error.code == "freshness/cannot-rebuild" else "failed"
        return Rebuilt(image.names, kind, why=image.cannot or error.message)
    return _told(image, result)


def _as_before(store: LocalStore, reference: str, platform: str, content: str) -> bool:
    image = store.images.by_name(reference, platform) or store.images.by_name(reference)
    return image is not None and content_of(parse_config(store.blobs.read(image.id))) == content


def _settle(store: LocalStore, image: ImageReport) -> None:
    """Its bases moved without a difference: it stands on the new ones now, and is not told of again."""
    origin = read(store.origins.of(image.image, image.names[0]))
    if origin is None:
        return
    now = {(base.reference, base.platform): base.now for base in image.bases if base.verdict == "equal"}
    bases = []
    for use in origin.bases:
        top = now.get((use.reference, use.platform))
        if use.top is not None and top is not None:
            use = msgspec.structs.replace(use, top=top)
        elif use.top is None:
            here = store.images.by_name(use.reference, use.platform)
            if here is not None and here.id != use.image and _as_before(store, use.reference, use.platform, use.content):
                use = msgspec.structs.replace(use, image=here.id, manifest=here.manifest)
        bases.append(use)
    store.origins.put(image.image, image.names, typed.encode_json(msgspec.structs.replace(origin, bases=tuple(bases))))


def _told(image: ImageReport, result: BuildResult) -> Rebuilt:
    ran = sum(step.verdict == "ran" for step in result.steps)
    cached = sum(step.verdict == "hit" for step in result.steps)
    made = next((built.id for built in result.images if str(built.platform) == image.platform), None)
    return Rebuilt(image.names, "same" if made == image.image else "rebuilt", made, ran, cached)


def _shown(names: Sequence[str]) -> str:
    from lamina.oci.reference import Reference

    return Reference.parse(names[0]).familiar if names else "its base"
