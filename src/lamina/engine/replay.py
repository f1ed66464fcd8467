"""What the cache would have done over the last commits of a repository: keys of each commit, hits, seconds lost, and the order that would have
saved most. Nothing runs and nothing is fetched.

The model is one cache that keeps everything, building each commit of the branch in turn: a step hits when an earlier commit had its key. The
first commit fills the cache and is not counted. Seconds are those of this store's records: of the same key, else of the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.cache.record import CacheKey, Place
from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import DockerfileError, parse
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lower import Options
from lamina.engine.replay_git import Commit, GitTree, NoRepository, Repository
from lamina.engine.replay_keys import Base, Keyed, keys_of, lowered, unknown_base
from lamina.engine.replay_order import Chain, Reordering, best
from lamina.graph.ops import CopyAction, FileOp
from lamina.layer.entry import Kind
from lamina.oci.digest import StateId
from lamina.oci.platform import Platform

if TYPE_CHECKING:
    from lamina.store.local import LocalStore


class CommitRow(msgspec.Struct, frozen=True):
    """One commit. `error`: it cannot be built, so it counts for nothing. `first_miss`: the step where the rebuilding began."""

    id: str
    subject: str
    hits: int = 0
    misses: int = 0
    seconds: float = 0.0  # lost
    first_miss: str = ""
    error: str = ""


class StepRow(msgspec.Struct, frozen=True):
    """One instruction over all counted commits. `seconds` of one run; None when no record of it is here."""

    stage: str
    text: str
    commits: int
    misses: int
    seconds: float | None

    @property
    def lost(self) -> float:
        return self.misses * (self.seconds or 0.0)


class Saving(msgspec.Struct, frozen=True):
    seconds: float
    runs: int


class Replay(msgspec.Struct, frozen=True):
    """`commits` oldest first; `steps` with the most seconds lost first, then the most misses.

    `unnamed_args`: what build arguments cost that stand in the keys of RUNs which do not name them; None when it is nothing.
    `takes_git`: a step of the last commit that copies a checkout's `.git`, which no commit has; "" when there is none.
    """

    dockerfile: str
    commits: tuple[CommitRow, ...]
    steps: tuple[StepRow, ...]
    hits: int
    misses: int
    seconds_lost: float
    reordering: Reordering | None = None
    unnamed_args: Saving | None = None
    takes_git: str = ""

    @property
    def hit_rate(self) -> float | None:
        """None when no step was counted."""
        total = self.hits + self.misses
        return self.hits / total if total else None


class Sources(msgspec.Struct, frozen=True):
    """What is known beside the repository; the defaults know nothing."""

    base: Callable[[str, Platform], Base] = unknown_base
    state: Callable[[CacheKey], StateId | None] = lambda key: None
    seconds: Callable[[Keyed, Place], float | None] = lambda step, place: None


def replay(
    folder: Path,
    *,
    environment: Mapping[str, str],
    commits: int = 50,
    ref: str = "HEAD",
    dockerfile: str = "Dockerfile",
    options: Options | None = None,
    sources: Sources | None = None,
) -> Replay:
    """Replay the last `commits` commits of `ref`. `folder` is the build's context in the work tree, `dockerfile` a path in it.
    `{commit}` in the value of a build argument stands for each commit's id.

    Raises NoRepository. A commit whose Dockerfile is missing or wrong is a row with its error.
    """
    options, sources = options or Options(), sources or Sources()
    rows: list[CommitRow] = []
    built: list[list[Keyed]] = []
    named: list[list[Keyed]] = []  # the same builds with --arg-scope=named
    seconds = _Seconds(sources, dockerfile)
    seen: set[CacheKey] = set()
    with Repository(folder, environment) as repository:
        for commit in repository.commits(commits, ref):
            try:
                steps = _steps(repository, commit, dockerfile, options, sources)
                if options.args:
                    named.append(_steps(repository, commit, dockerfile, msgspec.structs.replace(options, arg_scope="named"), sources))
            except NoRepository:
                raise
            except LaminaError as error:
                rows.append(CommitRow(commit.id, commit.subject, error=error.message))
                continue
            missed = list({step.key: step for step in steps if step.key not in seen}.values())
            count = len({step.key for step in steps})
            rows.append(
                CommitRow(
                    commit.id,
                    commit.subject,
                    count - len(missed),
                    len(missed),
                    sum(seconds.of(step) or 0.0 for step in missed),
                    missed[0].step.text if missed else "",
                )
            )
            seen |= {step.key for step in steps}
            built.append(steps)
    first = next((index for index, row in enumerate(rows) if not row.error), len(rows))
    counted = [row for row in rows[first + 1 :] if not row.error]
    return Replay(
        dockerfile,
        tuple(rows),
        tuple(_by_step(built, seconds)),
        sum(row.hits for row in counted),
        sum(row.misses for row in counted),
        sum(row.seconds for row in counted),
        best(_chains(built, seconds)),
        _saving(built, named, seconds),
        _takes_git(built[-1]) if built else "",
    )


def store_sources(store: LocalStore) -> Sources:
    """Base images and records of a store, no registry."""
    from lamina.cache import keys
    from lamina.cache.index import LocalRecords
    from lamina.cache.policy import choose
    from lamina.dockerfile.lower import ResolvedBase
    from lamina.engine.images.layout import checked_config
    from lamina.oci.digest import chain
    from lamina.oci.reference import Reference

    records = LocalRecords(store.database, store.now)

    def base(text: str, platform: Platform) -> Base:
        if "://" in text:
            return unknown_base(text, platform)
        reference = Reference.parse(text).with_default_tag()
        image = store.images.by_id(reference.digest) if reference.digest else None
        image = image or store.images.by_name(str(reference), str(platform)) or store.images.by_name(str(reference))
        if image is None:
            return unknown_base(text, platform)
        config = checked_config(store.blobs.read(image.id), f"image {image.id}")
        return Base(ResolvedBase(str(reference), image.manifest, config), keys.base_state(chain(config.diff_ids)))

    def state(key: CacheKey) -> StateId | None:
        found = choose(tuple(records.lookup([key]).get(key, ())), present=lambda record: True, max_age=None, now=store.now())
        return found.state if found is not None else None

    def seconds(step: Keyed, place: Place) -> float | None:
        here = records.lookup([step.key]).get(step.key, ()) or records.neighbours(place, 1)
        return here[0].seconds if here else None

    return Sources(base, state, seconds)


class _Seconds:
    """What a step costs, asked once for each text at its place."""

    def __init__(self, sources: Sources, dockerfile: str) -> None:
        self._sources = sources
        self._dockerfile = dockerfile
        self._known: dict[tuple[str, str], float | None] = {}

    def of(self, step: Keyed) -> float | None:
        name = (_stage(step), step.step.text)
        if self._known.get(name) is None:
            place = Place(self._dockerfile, name[0], step.step.index, step.step.line, name[1])
            self._known[name] = self._sources.seconds(step, place)
        return self._known[name]


def _steps(repository: Repository, commit: Commit, dockerfile: str, options: Options, sources: Sources) -> list[Keyed]:
    root = repository.root(commit.id)
    if root is None:
        raise _Missing("the context's folder is not in this commit")
    plain = GitTree(repository, root)
    text = _text(plain, dockerfile)
    if text is None:
        raise _Missing(f"there is no {dockerfile} in this commit")
    ignore = _text(plain, dockerfile + ".dockerignore")
    if ignore is None:
        ignore = _text(plain, ".dockerignore")
    document = parse(text, dockerfile)
    if document.errors:
        raise DockerfileError(document.errors)
    tree = GitTree(repository, root, IgnoreRules.parse(ignore), ignore) if ignore else plain
    args = {name: value.replace("{commit}", commit.id) if value else value for name, value in options.args.items()}
    graph, states = lowered(document, msgspec.structs.replace(options, args=args), sources.base)
    return keys_of(graph, states, lambda name: tree, sources.state)


class _Missing(LaminaError):
    code = "replay/missing"


def _text(tree: GitTree, name: str) -> str | None:
    path = tree.resolve(name.encode("utf-8", "surrogateescape"))
    entry = tree.entry(path) if path is not None else None
    if path is None or entry is None or entry.kind is not Kind.FILE:
        return None
    with tree.open(path) as file:
        return file.read().decode("utf-8", "surrogateescape")


def _stage(step: Keyed) -> str:
    return step.step.stage_name or str(step.step.stage)


def _by_step(built: Sequence[Sequence[Keyed]], seconds: _Seconds) -> list[StepRow]:
    """Counted are the commits after the first."""
    seen: set[CacheKey] = {step.key for step in built[0]} if built else set()
    counts: dict[tuple[str, str], list[int]] = {}
    costs: dict[tuple[str, str], float | None] = {}
    for steps in built[1:]:
        for step in steps:
            name = (_stage(step), step.step.text)
            count = counts.setdefault(name, [0, 0])
            count[0] += 1
            count[1] += step.key not in seen
            costs[name] = seconds.of(step)
        seen |= {step.key for step in steps}
    rows = [StepRow(stage, text, count[0], count[1], costs[stage, text]) for (stage, text), count in counts.items()]
    return sorted(rows, key=lambda row: (-row.lost, -row.misses))


def _takes_git(steps: Sequence[Keyed]) -> str:
    for step in steps:
        op = step.vertex.op
        if isinstance(op, FileOp) and isinstance(step.tree, GitTree) and step.tree.takes_git():
            copies = [action for action in op.actions if isinstance(action, CopyAction)]
            if any(action.source.strip("./") in ("", "*") and not action.include for action in copies):
                return step.step.text
    return ""


def _saving(built: Sequence[Sequence[Keyed]], named: Sequence[Sequence[Keyed]], seconds: _Seconds) -> Saving | None:
    if not named:
        return None
    now, then = _cost(built, seconds), _cost(named, seconds)
    return Saving(max(now[0] - then[0], 0.0), now[1] - then[1]) if now[1] > then[1] else None


def _cost(built: Sequence[Sequence[Keyed]], seconds: _Seconds) -> tuple[float, int]:
    """(seconds, runs) after the first commit."""
    seen: set[CacheKey] = {step.key for step in built[0]}
    spent, runs = 0.0, 0
    for steps in built[1:]:
        for step in {step.key: step for step in steps if step.key not in seen}.values():
            spent += seconds.of(step) or 0.0
            runs += 1
        seen |= {step.key for step in steps}
    return spent, runs


def _chains(built: Sequence[Sequence[Keyed]], seconds: _Seconds) -> list[list[Chain]]:
    """The stages of each commit as sequences of steps."""
    out: list[list[Chain]] = []
    for steps in built:
        stages: dict[int, list[Keyed]] = {}
        for step in steps:
            stages.setdefault(step.step.stage, []).append(step)
        out.append([Chain(_stage(rows[0]), rows[0].below, tuple((row, seconds.of(row)) for row in rows)) for rows in stages.values()])
    return out
