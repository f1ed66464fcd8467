"""The pages. Functions from what is kept to HTML; they know no request and no socket."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lamina.server.clock import rfc3339
from lamina.server.running import LiveBuild
from lamina.server.ui import drawing, livepages
from lamina.server.ui.html import Markup, el, join
from lamina.server.ui.parts import cell, facts, page, table, tag, when
from lamina.server.ui.steps import Step, steps_of
from lamina.server.ui.words import age, familiar, seconds, shorten, size
from lamina.store.builds import BuildLog


class LayerUse(msgspec.Struct, frozen=True):
    """`saved`: seconds that making it again would take. `made_by`: the instruction, "" where none is known."""

    id: str
    size: int
    last_used: float
    in_image: bool
    made_by: str = ""
    stage: str = ""
    seconds: float = 0.0


class Base(msgspec.Struct, frozen=True):
    """`created`: of the base image, None where it is not here any more."""

    reference: str
    created: float | None


class ImageRow(msgspec.Struct, frozen=True):
    id: str
    names: tuple[str, ...]
    platform: str
    created: float
    size: int
    bases: tuple[Base, ...] = ()


def builds(logs: Sequence[BuildLog], now: float, running: Sequence[LiveBuild] = ()) -> bytes:
    every = 1 if running else 3
    live = livepages.running(running, now)
    if not logs:
        return page("Builds", "/ui", [*live, el("p", "Nothing was built yet." if not live else "None yet.")], again=True, every=every)
    rows = []
    for log in logs:
        steps = steps_of(log)
        hits = sum(step.verdict == "hit" for step in steps)
        misses = sum(step.verdict in ("ran", "failed") for step in steps)
        verdict = ("failed", "failed") if log.error is not None else ("hit", "all found") if not misses else ("miss", "built")
        name = ", ".join(familiar(tag) for tag in log.tags) or log.target or log.dockerfile
        rows.append(
            [
                cell(el("a", name, href=f"/ui/builds/{log.id}"), class_="wrap"),
                cell(tag(*verdict)),
                cell(when(log.created, now), class_="nowrap"),
                cell(hits, class_="n"),
                cell(misses, class_="n"),
                cell(seconds(log.seconds), class_="n"),
                cell(seconds(sum(step.saved for step in steps)), class_="n"),
            ]
        )
    heads = ("Build", "Outcome", "When", "Hits", "Ran", "Took", "Saved")
    return page("Builds", "/ui", [*live, table("Builds, newest first", heads, rows, numbers=(3, 4, 5, 6))], again=True, every=every)


def build(log: BuildLog, now: float) -> bytes:
    steps = steps_of(log)
    body = [
        facts(
            ("Build", log.id),
            ("When", rfc3339(log.created)[:19].replace("T", " ") + " UTC, " + age(now - log.created)),
            ("Took", seconds(log.seconds)),
            ("Saved", seconds(sum(step.saved for step in steps))),
            ("Tags", ", ".join(familiar(tag) for tag in log.tags) or "none"),
        )
    ]
    if log.error is not None:
        body.append(el("p", tag("failed", "failed"), " ", log.error))
    if not steps:
        return page("Build", "/ui", [*body, el("p", "No step was kept of this build.")])
    rows = [_step_row(number, step) for number, step in enumerate(steps)]
    heads = ("Step", "Verdict", "Reason", "Took", "Saved")
    body += [
        el("h2", "Steps"),
        table("Steps", heads, [row for row, _ in rows], numbers=(3, 4), ids=[identifier for _, identifier in rows]),
        el("h2", "Graph"),
        drawing.graph(steps),
        el("h2", "Timeline"),
        el("p", "A step is drawn where the steps it stands on end; the times at which steps began are not kept.", class_="dim"),
        drawing.timeline(steps),
    ]
    return page("Build of " + (", ".join(familiar(tag) for tag in log.tags) or log.dockerfile), "/ui", body)


def cache(layers: Sequence[LayerUse], blobs: int, now: float, saved: float) -> bytes:
    """`blobs`: bytes of packed layers, manifests and configs. `saved`: seconds over the builds that are kept."""
    mine = sum(row.size for row in layers if row.in_image)
    body = [
        facts(
            ("Layers of images", size(mine)),
            ("Layers of the cache only", size(sum(row.size for row in layers) - mine)),
            ("Blobs", size(blobs)),
            ("Saved by the last builds", seconds(saved)),
        ),
        el("h2", "Largest layers"),
    ]
    largest = sorted(layers, key=lambda row: -row.size)[:100]
    rows = [
        [
            cell(
                el("code", shorten(row.made_by, 200)) if row.made_by else el("span", "base image, or no record", class_="dim"),
                class_="wrap",
            ),
            cell(row.stage),
            cell(size(row.size), class_="n"),
            cell(seconds(row.seconds) if row.made_by else "", class_="n"),
            cell("an image" if row.in_image else "the cache", class_="nowrap"),
            cell(when(row.last_used, now), class_="nowrap"),
        ]
        for row in largest
    ]
    if rows:
        body.append(table("Layers", ("Made by", "Stage", "Bytes", "Saves each time", "Needed by", "Last used"), rows, numbers=(2, 3)))
    else:
        body.append(el("p", "The store has no layers."))
    return page("Cache", "/ui/cache", body)


def images(found: Sequence[ImageRow], now: float) -> bytes:
    if not found:
        return page("Images", "/ui/images", [el("p", "There are no images.")])
    rows = []
    for image in found:
        bases = [el("div", familiar(base.reference), " ", el("span", _base_age(base, now), class_="dim")) for base in image.bases]
        rows.append(
            [
                cell(", ".join(familiar(name) for name in image.names) or "no name", class_="wrap"),
                cell(el("code", image.id.removeprefix("sha256:")[:12]), class_="nowrap"),
                cell(image.platform, class_="nowrap"),
                cell(when(image.created, now) if image.created > 0 else "", class_="nowrap"),
                cell(size(image.size), class_="n"),
                cell(bases or el("span", "not known", class_="dim"), class_="wrap"),
            ]
        )
    heads = ("Image", "Id", "Platform", "Created", "Bytes", "Base and its age")
    return page("Images", "/ui/images", [table("Images", heads, rows, numbers=(4,))])


def missing(what: str) -> bytes:
    return page("Not found", "", [el("p", what), el("p", el("a", "All builds", href="/ui"))])


def _step_row(number: int, step: Step) -> tuple[list[Markup], str]:
    details = [el("li", detail) for detail in step.reason.details[:20]]
    reason = join(step.reason.message or step.reason.code, el("details", el("summary", "more"), el("ul", details)) if details else None)
    return [
        cell(
            el("code", " ".join(step.text.split())), el("div", f"stage {step.stage_label}, line {step.line}", class_="dim"), class_="wrap"
        ),
        cell(tag(drawing.kind(step.verdict), step.verdict)),
        cell(reason, class_="wrap"),
        cell(seconds(step.seconds), class_="n"),
        cell(seconds(step.saved) if step.saved else "", class_="n"),
    ], f"step-{number}"


def _base_age(base: Base, now: float) -> str:
    if base.created is None:
        return "(not here any more)"
    return age(now - base.created) if base.created > 0 else "(without a date)"
