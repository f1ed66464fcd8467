"""Which other order of a stage's steps would have saved most over the replayed commits.

Two kinds of change are tried, one at a time: a RUN whose text says which files it needs goes before a COPY (after a COPY of just these files),
and a COPY goes behind a RUN that works elsewhere and does not name what it copies. The first is sure as far as the command is known, the second
has a condition that only a person can judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from lamina.dockerfile import parse
from lamina.dockerfile.instructions import Run
from lamina.dockerfile.needs import needed
from lamina.engine.replay_keys import Keyed
from lamina.graph.ops import ContextOp, CopyAction, ExecOp, FileOp

Cost = tuple[Keyed, float | None]
_FREE = 0.0  # the COPY of package lists that a changed order adds
_UNKNOWN = 1.0  # seconds of a step of which no record is here, for comparing orders only


class Chain(msgspec.Struct, frozen=True):
    """A stage in one commit. `below` is the filesystem that its first step stands on."""

    stage: str
    below: str
    steps: tuple[Cost, ...]


class Reordering(msgspec.Struct, frozen=True):
    """`order`: the stage's steps as they would have stood. `seconds` and `runs` saved over the counted commits; seconds only of steps whose
    cost is known. `condition`: what must be true for it, "" where the commands say so themselves."""

    stage: str
    order: tuple[str, ...]
    seconds: float
    runs: int
    condition: str = ""


class _Move(msgspec.Struct, frozen=True):
    """Take the step `what` to the place right before `before`; `lists` are package lists that a COPY in front of it brings."""

    stage: str
    what: str
    before: str
    lists: tuple[str, ...] = ()
    condition: str = ""


def best(commits: Sequence[Sequence[Chain]]) -> Reordering | None:
    """None when no change that is tried would have saved a run."""
    if len(commits) < 2:
        return None
    found: Reordering | None = None
    for move in _moves(commits[-1]):
        before, after = _run(commits, move.stage, None), _run(commits, move.stage, move)
        seconds = before[0] - after[0]
        weight = before[1] - after[1]
        runs = before[2] - after[2]
        if weight <= 0 or runs <= 0:
            continue
        chain = next(chain for chain in commits[-1] if chain.stage == move.stage)
        order = tuple(row.text for row in _ordered(chain, move))
        candidate = Reordering(move.stage, order, max(seconds, 0.0), runs, move.condition)
        if found is None or _rank(candidate) > _rank(found):
            found = candidate
    return found


def _rank(one: Reordering) -> tuple[float, int, bool]:
    return one.seconds, one.runs, not one.condition


def _moves(chains: Sequence[Chain]) -> list[_Move]:
    moves: list[_Move] = []
    for chain in chains:
        texts = [step.step.text for step, _ in chain.steps]
        for place, (step, _) in enumerate(chain.steps):
            if texts.count(step.step.text) > 1 or not isinstance(step.vertex.op, ExecOp):
                continue
            files = _needs(step)
            if files is not None:
                first = place
                while first > 0 and _passable(chain.steps[first - 1][0], files):
                    first -= 1
                lists = tuple(_found(chain.steps[first][0], files)) if first < place else ()
                if first < place and (lists or not files):
                    moves.append(_Move(chain.stage, step.step.text, texts[first], lists))
                continue
            above = place - 1
            while above >= 0 and _is_copy(chain.steps[above][0]) and not _touches(chain.steps[above][0], step):
                copy = chain.steps[above][0]
                moves.append(
                    _Move(
                        chain.stage,
                        step.step.text,
                        copy.step.text,
                        (),
                        f"if {_short(step.step.text)} does not use what {_short(copy.step.text)} brings",
                    )
                )
                above -= 1
    return moves


def _passable(step: Keyed, files: tuple[str, ...]) -> bool:
    """Whether a RUN that needs only `files` may go before this step: a COPY of more than these from the context, not to the system."""
    if not _is_copy(step):
        return False
    assert isinstance(step.vertex.op, FileOp)
    for action in step.vertex.op.actions:
        assert isinstance(action, CopyAction)
        name = action.source.rstrip("/").rpartition("/")[2]
        if name in files or action.dest.startswith(("/etc", "/usr/share", "/usr/local/share", "/root", "/tmp")):
            return False
    return True


def _is_copy(step: Keyed) -> bool:
    """COPY or ADD of files of the build context."""
    op = step.vertex.op
    if not isinstance(op, FileOp) or not op.actions:
        return False
    for action in op.actions:
        if not isinstance(action, CopyAction):
            return False
        source = step.vertex.inputs[action.input]
        if source is None or not isinstance(source.op, ContextOp):
            return False
    return True


def _touches(copy: Keyed, run: Keyed) -> bool:
    """Whether the RUN works in or below the folder that is copied to, or names it or what is copied."""
    assert isinstance(copy.vertex.op, FileOp)
    assert isinstance(run.vertex.op, ExecOp)
    here = run.vertex.op.cwd.rstrip("/") + "/"
    for action in copy.vertex.op.actions:
        assert isinstance(action, CopyAction)
        dest = action.dest.rstrip("/") + "/"
        names = {name for name in (action.source.strip("/").rpartition("/")[2], dest.strip("/").rpartition("/")[2]) if name}
        if here.startswith(dest) or dest == "/" or not names or any(name in run.step.text for name in names):
            return True
    return False


def _needs(step: Keyed) -> tuple[str, ...] | None:
    stages = parse("FROM scratch\n" + step.step.text + "\n").stages
    first = stages[0].instructions[0] if stages and stages[0].instructions else None
    return needed(first) if isinstance(first, Run) else None


class _Row(NamedTuple):
    text: str
    own: str
    seconds: float | None
    linked: bool = False


def _ordered(chain: Chain, move: _Move | None) -> list[_Row]:
    """The steps in the changed order; the stage as it is where it has not both steps in the expected order."""
    rows = [_Row(step.step.text, step.own, seconds, step.linked) for step, seconds in chain.steps]
    texts = [row.text for row in rows]
    if move is None or move.what not in texts or move.before not in texts:
        return rows
    source, target = texts.index(move.what), texts.index(move.before)
    if target >= source:
        return rows
    moved = rows.pop(source)
    front = [moved]
    if move.lists:
        front.insert(0, _Row(f"COPY {' '.join(move.lists)} ./", _lists_of(chain, move), _FREE))
    return [*rows[:target], *front, *rows[target:]]


def _lists_of(chain: Chain, move: _Move) -> str:
    copy = next(step for step, _ in chain.steps if step.step.text == move.before)
    return hashlib.sha256("\n".join(["lists", *_found(copy, move.lists).values()]).encode()).hexdigest()


def _found(copy: Keyed, names: Sequence[str]) -> dict[str, str]:
    """The package lists that lie where the COPY takes its files from, with their digests."""
    from lamina.layer.selection import SourceNotFound, select

    assert isinstance(copy.vertex.op, FileOp)
    found: dict[str, str] = {}
    for action in copy.vertex.op.actions:
        assert isinstance(action, CopyAction)
        for name in names if copy.tree is not None else ():
            assert copy.tree is not None
            try:
                found[name] = select(copy.tree, f"{action.source.rstrip('/')}/{name}", wildcard=False).digest()
            except SourceNotFound:
                continue
    return found


def _run(commits: Sequence[Sequence[Chain]], stage: str, move: _Move | None) -> tuple[float, float, int]:
    """(known seconds, seconds with a guess for the unknown, runs) that this stage cost after the first commit."""
    seen: set[str] = set()
    known = guessed = 0.0
    runs = 0
    for number, chains in enumerate(commits):
        for chain in chains:
            if chain.stage != stage:
                continue
            key = chain.below
            for row in _ordered(chain, move):
                key = hashlib.sha256(f"{key}\n{row.own}".encode()).hexdigest()
                name = f"linked {row.own}" if row.linked else key
                if name not in seen:
                    seen.add(name)
                    if number:
                        known += row.seconds or 0.0
                        guessed += _UNKNOWN if row.seconds is None else row.seconds
                        runs += row.seconds != _FREE
    return known, guessed, runs


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
