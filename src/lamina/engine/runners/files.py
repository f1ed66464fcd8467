"""Execute COPY, ADD and WORKDIR: the actions of a FileOp become entries of one new layer."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from time import time

from lamina.engine.selecting import Exclusion, exclusion, selection_of
from lamina.graph.ops import CopyAction, FileOp, MkdirAction, MkfileAction, Owner
from lamina.layer.ahead import Ahead
from lamina.layer.copying import CopyFailed, Ids, LayerWriter, Reuse, Target, copy, prepare
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.modes import ModeRule
from lamina.layer.owners import look_up
from lamina.layer.selection import Selection
from lamina.layer.tree import FileTree
from lamina.layer.unpacking import is_archive, unpack
from lamina.layer.writer import EntryWriter


def run_file_op(
    op: FileOp,
    root: FileTree | None,
    inputs: Sequence[FileTree | None],
    out: Path,
    flavour: Flavour,
    *,
    excluded: Exclusion = exclusion,
    now: float | None = None,
    reuse: Reuse | None = None,
) -> Ahead:
    """Write what `op` changes upon `root` (None = empty) into the new layer directory `out` (its `diff` and side table).

    `inputs[i]` is the tree of input i (input 0 unused). `now` (seconds) dates folders and files that have no date of their own.
    Nothing of `root` is changed. Returned is what knows the layer's diffID already, to be closed by the caller. On an error `out` is half-written and must be thrown away. Raises CopyFailed, SourceNotFound, UnknownOwner …
    """
    try:
        (out / "diff").mkdir(exist_ok=True)
        with EntryWriter(out, flavour) as writer:
            ahead = Ahead(writer, out)
            try:
                write_file_op(op, root, inputs, ahead, now=time() if now is None else now, excluded=excluded, reuse=reuse)
                ahead.finish()
            except BaseException:
                ahead.close()
                raise
        return ahead
    except OSError as error:
        raise CopyFailed(f"cannot write the files of this step: {error.strerror or error}") from error


def write_file_op(
    op: FileOp,
    root: FileTree | None,
    inputs: Sequence[FileTree | None],
    writer: LayerWriter,
    *,
    now: float,
    excluded: Exclusion = exclusion,
    reuse: Reuse | None = None,
) -> None:
    """As run_file_op, to any writer."""
    target = Target(root, writer, now)
    for action in op.actions:
        owner = owner_ids(action.owner, root)
        if isinstance(action, MkdirAction):
            target.make_folders(target.locate(_path(action.path)), owner, action.mode)
        elif isinstance(action, MkfileAction):
            _make_file(target, action, owner, now)
        else:
            tree = inputs[action.input]
            if tree is None and action.source == "/":
                target.make_folders(target.locate(_path(action.dest)), owner)  # all of an empty filesystem is an empty folder
                continue
            if tree is None:
                raise CopyFailed(f"nothing to copy {action.source!r} from: the source is empty")
            _copy(target, action, selection_of(action, tree, excluded), owner, reuse)


def owner_ids(owner: Owner | None, root: FileTree | None) -> Ids | None:
    """Numbers for names, by the passwd and group of the filesystem that is written upon. UnknownOwner for a name it lacks."""
    return None if owner is None else look_up(root, owner.user or "0", owner.group or None)


def _copy(target: Target, action: CopyAction, selection: Selection, owner: Ids | None, reuse: Reuse | None) -> None:
    dest = _path(action.dest)
    mode = ModeRule(action.mode) if action.mode is not None else None
    for match in selection.matches:
        if not selection.shows(match):
            continue
        if action.unpack and match.entry.kind in (Kind.FILE, Kind.HARDLINK):
            with selection.tree.open(match.path) as data:
                if is_archive(data):
                    data.seek(0)
                    where = target.locate(dest)
                    target.make_folders(where, owner)
                    unpack(target, data, where)
                    continue
        copy(target, selection, match, dest, owner=owner, mode=mode, dir_contents=action.dir_contents or action.source == "/", reuse=reuse)


def _make_file(target: Target, action: MkfileAction, owner: Ids | None, now: float) -> None:
    where = prepare(target, _path(action.path), owner)
    there = target.lookup(where)
    if there is not None and there.kind is Kind.DIRECTORY:
        raise CopyFailed(f"cannot replace the folder {action.path} with a file")
    mode = ModeRule(action.chmod).apply(action.mode, False) if action.chmod is not None else action.mode
    uid, gid = owner or (0, 0)
    target.put(Entry(where, Kind.FILE, mode, uid, gid, len(action.data), now), BytesIO(action.data))


def _path(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
