"""What a build rested on in which every step was found: enough to say later, without building, that nothing has changed.

A receipt is only taken where everything that was looked at can be looked at again by stat and by a few rows of the store: no URL, no
repository, no registry, no secret, no freshness asked for, no file changed within the last seconds (statcache.py, RACY).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lamina.cache.record import Record
from lamina.dockerfile.lower import Lowered
from lamina.engine.job import Job
from lamina.engine.reporting import step_documents
from lamina.engine.request import BuildRequest, BuildResult
from lamina.engine.results import Filesystem, Result
from lamina.graph.ops import GitOp, HttpOp, ImageOp
from lamina.graph.vertex import Freshness, Vertex, walk
from lamina.layer.reading import Facts
from lamina.solver.events import Ended
from lamina.store.refs import Image


class Made(msgspec.Struct, frozen=True, array_like=True):
    """When and where a record was made: the words of a hit's reason follow from it and the clock."""

    created: float  # seconds since the epoch
    where: str  # "on this machine"
    build: str


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """A step as it was shown, in the order of showing."""

    name: str
    saved: float
    made: Made


class Receipt(msgspec.Struct, frozen=True):
    """`folders`: each folder of the context that was looked at, with name and facts of all that is in it, as os.scandir gives them.

    `made` goes with `steps` (documents of the report): None for a step that is no hit.
    """

    folders: list[tuple[str, list[str | Facts]]]
    records: list[str]  # keys
    layers: list[str]
    names: list[str]  # full references: tags of the image and bases
    image: str
    manifest: str
    hits: list[Hit]
    steps: list[dict[str, object]]
    made: list[Made | None]


def take(
    job: Job, lowered: Lowered, outcome: Iterable[Ended[Vertex, Result]], image: Image, names: tuple[str, ...], result: BuildResult
) -> Receipt | None:
    """The receipt of a build that has ended well, None where there can be none."""
    request = job.request
    if job.warnings or not _repeatable(request) or lowered.target is None:
        return None
    bases: list[str] = []
    for vertex in walk((lowered.target,)):
        if isinstance(vertex.op, (HttpOp, GitOp)) or vertex.freshness != Freshness():
            return None
        if isinstance(vertex.op, ImageOp):
            bases.append(vertex.op.reference)
    if any(base not in job.around.bases.made_here for base in bases):
        return None
    records: dict[int, Record] = {}
    layers: dict[str, None] = dict.fromkeys(image.layers)
    for ended in outcome:
        if ended.status not in ("hit", "pure") or (ended.status == "hit" and not isinstance(ended.result, Filesystem)):
            return None
        if isinstance(ended.result, Filesystem):
            layers.update(dict.fromkeys(layer.id for layer in ended.result.layers))
            if ended.result.record is not None:
                records[id(ended.node)] = ended.result.record
    folders = job.around.contexts.certain()
    if folders is None or any(step.verdict == "hit" and step.reason.code != "same-key" for step in result.steps):
        return None
    made: list[Made | None] = []
    for row in lowered.steps:
        record = records.get(id(row.vertex)) if row.needed else None
        made.append(None if record is None else _made(record, job))
    if any((step.verdict == "hit") != (one is not None) for step, one in zip(result.steps, made)):
        return None
    return Receipt(
        folders=folders,
        records=sorted({record.key for record in records.values()}),
        layers=list(layers),
        names=sorted({*names, *bases}),
        image=image.id,
        manifest=image.manifest,
        hits=[Hit(name, record.seconds, _made(record, job)) for name, record in job.hits],
        steps=step_documents(result.steps),
        made=made,
    )


def _repeatable(request: BuildRequest) -> bool:
    """Whether another build of this request would look at nothing but the context, the store and the command line."""
    asked = (
        request.secrets, request.ssh, request.named_contexts, request.pull, request.no_cache, request.no_cache_filter,
        request.refresh, request.max_age, request.lock, request.cache_from, request.cache_to,
    )  # fmt: skip
    return not any(asked) and all(output.type == "image" for output in request.outputs)


def _made(record: Record, job: Job) -> Made:
    return Made(record.created, "on this machine" if record.host == job.around.host else f"on {record.host}", record.build)
