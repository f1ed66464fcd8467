"""One reason for every step: why it hit, or which input differs from the nearest earlier record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from lamina.cache.reason import Reason
from lamina.cache.record import KeyParts, Place, Record
from lamina.cache.wording import SAME, age, made, shorten

if TYPE_CHECKING:
    from lamina.cache.differences import CompareFiles, Difference

_COMPARED = 3  # records whose listings are read to find the nearest


class Upstream(msgspec.Struct, frozen=True):
    """The step whose result is the root filesystem. `reason` is why it ran in this build; None when it did not."""

    text: str
    line: int
    reason: Reason | None = None

    @property
    def name(self) -> str:
        return f"line {self.line}: {shorten(self.text)}"


class Facts(msgspec.Struct, frozen=True):
    """What is known of a miss beside the keys. At most one of the first five holds, or `failed`; they are told before any comparison.

    `args`: names of the build arguments among the variables (ExecOp.args_in_env; for COPY and WORKDIR those in scope).
    """

    now: float  # seconds since the epoch
    forced_by: str | None = None  # "--no-cache", "--refresh deps"
    expired: tuple[float, str] | None = None  # the record's age in seconds, and what limits it: "--max-age deps=12h"
    evicted: bool = False
    forgotten: bool = False
    not_trusted: str | None = None  # why the only record of this key is not believed
    upstream: Upstream | None = None
    sources: tuple[Upstream, ...] = ()  # steps that ran now and whose files this one reads (COPY --from, bind mounts)
    args: frozenset[str] = frozenset()
    failed: tuple[float, str] | None = None  # the last attempt at this very step failed: when, in which build


def explain_miss(
    parts: KeyParts | None, place: Place, neighbours: Sequence[Record], facts: Facts, compare: CompareFiles = lambda old, new: ()
) -> Reason:
    """Why the step ran, or in a plan would run. `neighbours` as RecordCache gives them.

    `parts` None: the key was not computed (a forced step of a plan, or one behind an unknown one).
    """
    told = _told(facts)
    if told is not None:
        return told
    if parts is None or not neighbours:
        return _without_neighbour(place, facts)
    record, found = _nearest(parts, place, neighbours, facts, compare)
    since = max(0.0, facts.now - record.created)
    if not found:
        return Reason("evicted", "its earlier record is there, its files are not", record_age=since)
    head, *rest = found
    reason = _behind(facts, head, since) if head.code == "parent-changed" else None
    if reason is None:
        reason = Reason(head.code, head.message, paths=head.paths, record_age=since)
    details = tuple(d.message for d in rest if d.code != "parent-changed")
    if len(head.paths) > 1:
        details = (*(shorten(path, 200) for path in head.paths[:50]), *details)
    source = next((s for s in facts.sources if s.reason is not None), None)
    if source is not None and head.code.startswith(("file-", "mode-", "owner-", "xattr-")):
        details = (*details, f"made by {source.name}")
    return Reason(reason.code, reason.message, details, reason.paths, reason.record_age, reason.root_step)


def explain_unknown(upstream: Upstream | None) -> Reason:
    """Plan: the key follows from the result of a step that has not run."""
    if upstream is None:
        return Reason("parent-changed", "depends on what a step before it will give")
    root = (upstream.reason.root_step if upstream.reason else None) or upstream.name
    return Reason("parent-changed", f"depends on what {root} will give", root_step=root)


def explain_hit(
    record: Record,
    now: float,
    how: Literal["same-key", "cut-off", "shared"],
    *,
    host: str,
    build: str,
    because: str | None = None,
    found_in: str | None = None,
) -> Reason:
    """Where the record came from and how old it is. `host` and `build` are this machine's and this build's; `found_in`: the shared cache that
    had it.

    `because`: for cut-off the step that ran again and came out equal; for shared the step of this build that did the work.
    """
    since = max(0.0, now - record.created)
    if how == "shared":
        return Reason("shared", f"equal to {because or 'another step'}, which ran in this build", record_age=since)
    where = "on this machine" if record.host == host else f"on {record.host}"
    told = "made earlier in this build" if record.build == build else made(since, where, record.build)
    if found_in is not None:
        told = f"found in {found_in}, {told}"
    if how == "cut-off":
        return Reason("cut-off", f"{because or 'a step before it'} ran again and came out equal; {told}", record_age=since)
    return Reason("same-key", f"{SAME}; {told}", record_age=since)


def _told(facts: Facts) -> Reason | None:
    if facts.forced_by:
        return Reason("forced", f"asked for by {facts.forced_by}")
    if facts.expired is not None:
        old, limit = facts.expired
        return Reason("expired", f"its record is {age(old)} old, {limit} allows less", record_age=old)
    if facts.forgotten:
        return Reason("forgotten", "its record was forgotten (lamina cache forget)")
    if facts.evicted:
        return Reason("evicted", "its record is there, its files were removed from this machine")
    if facts.failed is not None:
        when, build = facts.failed
        since = max(0.0, facts.now - when)
        return Reason(
            "failed-before", f"the last attempt failed {age(since)} ago (build {build}), and nothing has changed", record_age=since
        )
    if facts.not_trusted:
        return Reason("not-trusted", f"a shared record of it is not believed: {facts.not_trusted}")
    return None


def _without_neighbour(place: Place, facts: Facts) -> Reason:
    upstream = facts.upstream
    if upstream is not None and upstream.reason is not None and upstream.reason.code not in ("first-build", "forced", "expired"):
        root = upstream.reason.root_step or upstream.name
        return Reason("first-build", f"never built before in this form, behind {root}", root_step=root)
    return Reason("first-build", f"first build of this step: {shorten(place.text)}")


def _nearest(
    parts: KeyParts, place: Place, neighbours: Sequence[Record], facts: Facts, compare: CompareFiles
) -> tuple[Record, list[Difference]]:
    """The record that the user would call "the last time".

    Same place, fewest differences; but where a step before it changed, a record of the same operation anywhere (an instruction
    was put in or taken out above).
    """
    from lamina.cache.differences import differences  # only a miss needs it

    moved = facts.upstream is not None and facts.upstream.reason is not None

    def score(record: Record) -> tuple[bool, bool, int]:
        return (
            moved and record.parts.op != parts.op,
            not _same_place(record.place, place),
            _distance(record.parts, parts),
        )

    best = min(score(record) for record in neighbours)
    nearest = [record for record in neighbours if score(record) == best][:_COMPARED]
    # Of several that are as near the one with the fewest files that differ; neighbours are newest first.
    compared: list[tuple[int, Record, list[Difference]]] = []
    for record in nearest:
        found = differences(record.parts, parts, old_text=record.place.text, new_text=place.text, args=facts.args, compare=compare)
        files = sum(len(difference.paths) for difference in found)
        compared.append((files, record, found))
        if files == 1:
            break  # no record is nearer
    _, record, found = min(compared, key=lambda item: item[0])
    return record, found


def _same_place(one: Place, other: Place) -> bool:
    return (one.dockerfile, one.stage, one.position) == (other.dockerfile, other.stage, other.position)


def _distance(old: KeyParts, new: KeyParts) -> int:
    fields = sum(1 for name in {*old.op, *new.op} if old.op.get(name) != new.op.get(name))
    return fields + abs(len(old.inputs) - len(new.inputs)) + sum(1 for a, b in zip(old.inputs, new.inputs) if a.id != b.id)


def _behind(facts: Facts, head: Difference, since: float) -> Reason | None:
    """The root filesystem changed and nothing else: name the step where that began."""
    upstream = facts.upstream
    if upstream is None:
        return Reason(head.code, head.message, record_age=since)
    cause = upstream.reason
    if cause is None:
        return Reason(head.code, f"follows {upstream.name} now", record_age=since, root_step=upstream.name)
    root = cause.root_step or upstream.name
    if cause.code == "parent-changed":
        return Reason(head.code, cause.message, record_age=since, root_step=root)
    return Reason(head.code, f"follows {root} ({shorten(cause.message, 70)})", cause.details, cause.paths, since, root)
