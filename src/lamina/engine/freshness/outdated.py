"""`lamina outdated`: which images that were built here stand on bases that have moved, or have files of URLs and repositories that have, which
of their stages follow, and what is cut off.

Each distinct tag is asked about once, with a HEAD request, however many images stand on it; only for one that moved are its manifest and
config read, to see whether anything that a build takes from it differs. Likewise each URL and repository (engine/freshness/remotes.py).
Nothing is changed by asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.origins import BaseUse, Origin, content_of, read
from lamina.engine.freshness.recipe import NOTHING_GIVEN, Given, hindrance, plain_url
from lamina.engine.freshness.remotes import RemoteReport, ask_all, asker, name_of, places_asked, questions
from lamina.oci.config import parse_config
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.registry.client import RegistryClient

_PARALLEL = 8
_TAGGED = "{} was given by `lamina tag`, no build is known by that name: tag again"

BaseVerdict = Literal["current", "moved", "equal", "follows", "pinned", "local", "gone", "unknown"]
"""moved: other content. equal: another digest with the same layers and settings. follows: an image built here that is outdated itself.
local: a layout or an image that came from no registry. gone: no image has that name any more. unknown: the registry did not answer."""

Verdict = Literal["current", "outdated", "follows", "cut-off", "unknown"]
StageVerdict = Literal["follows", "if-changed", "cut-off"]


class BaseReport(msgspec.Struct, frozen=True, omit_defaults=True):
    reference: str
    platform: str
    verdict: BaseVerdict
    was: Digest
    now: Digest | None = None
    why: str = ""


class StageReport(msgspec.Struct, frozen=True):
    """follows: it stands on what moved, or adds it. if-changed: it only takes files from what follows, so it is cut off unless those differ."""

    stage: str
    verdict: StageVerdict
    because: str = ""


class ImageReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """`cannot`: why a rebuild is impossible, None when it is not."""

    names: tuple[str, ...]
    image: Digest
    platform: str
    verdict: Verdict
    bases: tuple[BaseReport, ...] = ()
    remotes: tuple[RemoteReport, ...] = ()
    stages: tuple[StageReport, ...] = ()
    cannot: str | None = None


class Outdated(msgspec.Struct, frozen=True):
    """`images` in the order in which they would be rebuilt. `asked`: distinct references; `asked_remotes`: distinct URLs and
    repositories. `untold`: images made by an earlier lamina."""

    images: tuple[ImageReport, ...]
    asked: int
    untold: tuple[str, ...] = ()
    asked_remotes: int = 0

    @property
    def behind(self) -> tuple[ImageReport, ...]:
        return tuple(image for image in self.images if image.verdict in ("outdated", "follows"))


class Built(msgspec.Struct, frozen=True):
    """An image built here with all names that one build gave it. `tagged`: it has none of those any more, these were given to it afterwards."""

    image: Digest
    names: tuple[str, ...]
    origin: Origin
    tagged: bool = False


class _Answer(msgspec.Struct, frozen=True):
    """What a reference names now, or why that is not known."""

    digest: Digest | None
    why: str = ""


Ask = Callable[[str], Digest]
Look = Callable[[str, Platform], str]
"""The content (`content_of`) of what a reference names now."""


def outdated(
    store: LocalStore,
    client: Callable[[], RegistryClient],
    names: Sequence[str] = (),
    only: Callable[[str], bool] | None = None,
    given: Given = NOTHING_GIVEN,
) -> Outdated:
    """`names`: full references, all images built here when empty. `only` limits which references are asked about, then no URL and no
    repository is. `given`: what a rebuild would have beside what was kept.

    A registry that does not answer makes its images unknown; nothing is raised for that. ImageNotFound for a name that was not built here.
    """
    found, untold = built_images(store)
    if names:
        names = [_built_name(store, found, name) for name in names]
        wanted = set(names)
        for name in names:
            if not any(name in built.names for built in found):
                from lamina.store.refs import ImageNotFound

                why = "an earlier version built it: build it once more" if name in untold else "`lamina outdated` lists what was built here"
                raise ImageNotFound(f"nothing is known of how {Reference.parse(name).familiar} was built", hint=why)
        found = _with_bases([built for built in found if wanted & set(built.names)], found)
    found = in_order(found)
    asking = sorted(
        {use.reference for built in found for use in built.origin.bases if _askable(use) and (only is None or only(use.reference))}
    )
    answers = _ask_all(asking, lambda text: client().digest_of(Reference.parse(text)))

    def look(text: str, platform: Platform) -> str:
        reference = Reference.parse(text)
        resolved = client().resolve(reference, platform)
        return content_of(parse_config(client().fetch_config(reference, resolved.manifest.config)))

    remote = [each for built in found if only is None for each in questions(built.origin)]
    told = ask_all(remote, asker(store))
    remotes = {id(built): tuple(told[each] for each in questions(built.origin) if each in told) for built in found}
    reports = judge(store, found, answers, look, remotes, given)
    if names:
        reports = [report for report in reports if wanted & set(report.names)]
    return Outdated(tuple(reports), len(asking), () if names else untold, len(places_asked(remote)))


def built_images(store: LocalStore) -> tuple[list[Built], tuple[str, ...]]:
    """Images with a name that were built here and are known; names of images without a registry and without a document."""
    names = {(image.id, name) for image in store.images.all() for name in image.names}
    grouped: dict[tuple[Digest, bytes], list[str]] = {}
    told: set[str] = set()
    for row in store.origins.all():
        if (row.image, row.name) in names:
            grouped.setdefault((row.image, row.doc), []).append(row.name)
            told.add(row.name)
    found = [Built(image, tuple(each), origin) for (image, doc), each in grouped.items() if (origin := read(doc)) is not None]
    known = {built.image for built in found}
    tagged: dict[Digest, list[str]] = {}
    docs = {row.image: row.doc for row in store.origins.all()}
    for image, name in sorted(names):
        if name not in told and image in docs and image not in known:
            tagged.setdefault(image, []).append(name)
    found += [Built(image, tuple(each), origin, tagged=True) for image, each in tagged.items() if (origin := read(docs[image])) is not None]
    made = {image for log in store.builds.last() for image in log.images}
    untold = sorted({name for image, name in names if name not in told and image in made and image not in docs})
    return found, tuple(untold)


def _built_name(store: LocalStore, found: Sequence[Built], name: str) -> str:
    """For a name that was given by `lamina tag` one that a build gave to the same image."""
    if any(name in built.names for built in found):
        return name
    image = store.images.by_name(name)
    return next((built.names[0] for built in found if image is not None and built.image == image.id), name)


def in_order(found: Iterable[Built]) -> list[Built]:
    """An image after those that it stands on."""
    found = list(found)
    by_name = {(name, built.origin.platform): built for built in found for name in built.names}
    done: dict[int, Built] = {}
    open_: set[int] = set()
    stack = [(built, False) for built in reversed(found)]
    while stack:
        built, leaving = stack.pop()
        if leaving:
            done[id(built)] = built
        elif id(built) not in done and id(built) not in open_:
            open_.add(id(built))
            stack.append((built, True))
            for use in built.origin.bases:
                below = by_name.get((use.reference, use.platform))
                if below is not None and use.top is None and id(below) not in open_:
                    stack.append((below, False))
    return list(done.values())


def _with_bases(wanted: list[Built], known: list[Built]) -> list[Built]:
    """What is wanted, and the images built here that it stands on."""
    by_name = {(name, built.origin.platform): built for built in known for name in built.names}
    out = {id(built): built for built in wanted}
    todo = list(wanted)
    while todo:
        for use in todo.pop().origin.bases:
            below = by_name.get((use.reference, use.platform))
            if below is not None and id(below) not in out:
                out[id(below)] = below
                todo.append(below)
    return list(out.values())


def _askable(use: BaseUse) -> bool:
    return use.top is not None and "@" not in use.reference and "://" not in use.reference


def _ask_all(references: Sequence[str], ask: Ask) -> dict[str, _Answer]:
    """One of each registry is asked first: where that gave no connection, or asks for patience, the others are not tried."""
    from lamina.registry.errors import RegistryUnreachable

    silent: dict[str, str] = {}

    def one(text: str) -> _Answer:
        registry = Reference.parse(text).registry
        if registry in silent:
            return _Answer(None, silent[registry])
        try:
            return _Answer(ask(text))
        except RegistryUnreachable as error:
            silent[registry] = error.message
            return _Answer(None, error.message)
        except LaminaError as error:
            return _Answer(None, error.message)

    if not references:
        return {}
    from concurrent.futures import ThreadPoolExecutor

    first = {Reference.parse(text).registry: text for text in reversed(references)}.values()
    rest = [text for text in references if text not in first]
    with ThreadPoolExecutor(min(_PARALLEL, len(references)), thread_name_prefix="ask") as pool:
        found = dict(zip(first, pool.map(one, first)))
        return found | dict(zip(rest, pool.map(one, rest)))


def judge(
    store: LocalStore,
    found: Sequence[Built],
    answers: dict[str, _Answer],
    look: Look,
    remotes: Mapping[int, tuple[RemoteReport, ...]],
    given: Given,
) -> list[ImageReport]:
    """`found` in order: an image after those that it stands on. `remotes` by id() of what is found."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    looked: dict[tuple[str, str], str | LaminaError] = {}
    reports = []
    for built in found:
        bases = tuple(_base(store, use, answers, look, looked, verdicts) for use in built.origin.bases)
        others = remotes[id(built)]
        kinds = {base.verdict for base in bases} | {other.verdict for other in others}
        verdict: Verdict
        if "moved" in kinds:
            verdict = "outdated"
        elif "follows" in kinds:
            verdict = "follows"
        elif "unknown" in kinds or "gone" in kinds:
            verdict = "unknown"
        else:
            verdict = "cut-off" if "equal" in kinds else "current"
        for name in built.names:
            verdicts[name, built.origin.platform] = verdict
        stages = _stages(built.origin, bases, others) if verdict in ("outdated", "follows", "cut-off") else ()
        if built.tagged and verdict in ("outdated", "follows"):
            why = _TAGGED.format(", ".join(Reference.parse(name).familiar for name in built.names))
            reports.append(ImageReport(built.names, built.image, built.origin.platform, verdict, bases, others, stages, why))
            continue
        cannot = (
            (hindrance(built.origin.recipe, given) or _held(built.origin, bases, others)) if verdict in ("outdated", "follows") else None
        )
        reports.append(ImageReport(built.names, built.image, built.origin.platform, verdict, bases, others, stages, cannot))
    return reports


def _base(
    store: LocalStore,
    use: BaseUse,
    answers: dict[str, _Answer],
    look: Look,
    looked: dict[tuple[str, str], str | LaminaError],
    verdicts: dict[tuple[str, str], Verdict],
) -> BaseReport:
    def report(verdict: BaseVerdict, now: Digest | None = None, why: str = "") -> BaseReport:
        return BaseReport(use.reference, use.platform, verdict, use.top or use.manifest, now, why)

    if "@" in use.reference:
        return report("pinned")
    if "://" in use.reference:
        return report("local")
    if use.top is None:
        image = store.images.by_name(use.reference, use.platform) or store.images.by_name(use.reference)
        if image is None:
            return report("gone", None, "no image has this name any more")
        if image.id != use.image and content_of(parse_config(store.blobs.read(image.id))) != use.content:
            return report("moved", image.manifest, "it was built again since")
        if verdicts.get((use.reference, use.platform)) in ("outdated", "follows"):
            return report("follows", None, "it is outdated itself")
        return report("local" if image.id == use.image else "equal", image.manifest)
    answer = answers.get(use.reference)
    if answer is None:
        return report("current", None, "not asked")
    if answer.digest is None:
        return report("unknown", None, answer.why)
    if answer.digest == use.top:
        return report("current", answer.digest)
    key = (use.reference, use.platform)
    if key not in looked:
        try:
            looked[key] = look(use.reference, Platform.parse(use.platform))
        except LaminaError as error:
            looked[key] = error
    content = looked[key]
    if isinstance(content, LaminaError):
        return report("moved", answer.digest, content.message)
    return report("equal" if content == use.content else "moved", answer.digest)


def _stages(origin: Origin, bases: Sequence[BaseReport], remotes: Sequence[RemoteReport]) -> tuple[StageReport, ...]:
    """What the stages come to. A base named by digest beside its tag is the same base."""
    changed = {remote.name for remote in remotes if remote.verdict == "moved"}
    contexts = {"context": origin.recipe.place, **origin.recipe.contexts}
    moved = {_bare(base.reference): base for base in bases if base.verdict in ("moved", "follows")}
    known: dict[str, StageReport] = {}
    for stage in origin.stages:
        below = known.get(stage.base) if stage.on_stage and stage.base else None
        if stage.base is not None and not stage.on_stage and _bare(stage.base) in moved:
            report = StageReport(stage.name, "follows", f"{_shown(stage.base)} moved")
        elif (added := next((name for name in stage.remotes if name in changed), None)) is not None:
            report = StageReport(stage.name, "follows", f"{added} moved")
        elif below is not None and below.verdict != "cut-off":
            report = StageReport(stage.name, below.verdict, f"it stands on stage {below.stage}")
        else:
            report = StageReport(stage.name, "cut-off", "nothing that it uses moved")
            for name in stage.contexts:
                if contexts.get(name) and _place_name(contexts[name]) in changed:
                    report = StageReport(stage.name, "if-changed", f"it takes files from {contexts[name]}")
            for source in stage.copies:
                other = known.get(source)
                if other is not None and other.verdict != "cut-off":
                    report = StageReport(stage.name, "if-changed", f"it takes files from stage {source}")
                elif other is None and _bare(source) in moved:
                    report = StageReport(stage.name, "if-changed", f"it takes files from {_shown(source)}")
        known[stage.name] = report
    return tuple(known.values())


def _place_name(place: str) -> str:
    """A context's place as it stands among the remotes."""
    from lamina.engine.runners.git import parse_git_url

    url = parse_git_url(place)
    return plain_url(place) if url is None else name_of(plain_url(url.remote), url.ref)


def _held(origin: Origin, bases: Sequence[BaseReport], remotes: Sequence[RemoteReport]) -> str | None:
    """Whether lamina.lock would give a rebuild the same again, or refuse what moved."""
    if not origin.recipe.locked:
        return None
    from pathlib import Path

    from lamina.engine.freshness.lockfile import NAME, read_lock

    file = Path(origin.recipe.folder) / NAME
    try:
        lock = read_lock(file)
    except LaminaError as error:
        return error.message
    moved = [base for base in bases if base.verdict == "moved"]
    held = {**lock.urls, **lock.git}
    others = [remote for remote in remotes if remote.verdict == "moved" and remote.kind != "watch"]
    same = all(lock.images.get(base.reference) == base.was for base in moved) and all(held.get(each.name) == each.was for each in others)
    if same and (moved or others):
        return f"{file} holds what it was built from: `lamina lock` first"
    return None


def _bare(reference: str) -> str:
    return reference if "://" in reference else reference.partition("@")[0]


def _shown(reference: str) -> str:
    return reference if "://" in reference else Reference.parse(reference).familiar
