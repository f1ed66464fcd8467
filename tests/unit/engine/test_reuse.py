from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from lamina.engine.reuse import Earlier, earlier
from lamina.graph.ops import CopyAction, FileAction, FileOp, MkdirAction, MkfileAction
from lamina.layer import sums
from lamina.layer.entry import Entry, Kind
from lamina.layer.sums import Sum

TEXT = hashlib.sha256(b"text").digest()
OTHER = hashlib.sha256(b"other").digest()
SUM = Sum(TEXT, 4, 0o644, 0, 0, 5.0)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    sums.write(tmp_path, {b"f": SUM})
    return tmp_path


def entry(path: bytes = b"f", mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: float = 5.0) -> Entry:
    return Entry(path, Kind.FILE, mode, uid, gid, 4, mtime)


def found(layer: Path) -> Earlier:
    op = FileOp((CopyAction(1, "/f", "/f"),))
    made = earlier(op, layer)
    assert made is not None
    return made


def test_an_equal_file_is_found_and_known_once_it_was_taken(layer: Path) -> None:
    before = found(layer)
    assert before.find(entry(), TEXT) == os.fsencode(layer / "diff" / "f")
    assert before.known == {}
    before.taken(b"f")
    assert before.known == {b"f": SUM}


@pytest.mark.parametrize(
    ("asked", "content"),
    [
        (entry(), OTHER),
        (entry(), b""),
        (entry(b"g"), TEXT),
        (entry(mtime=6.0), TEXT),
        (entry(mode=0o755), TEXT),
        (entry(uid=1), TEXT),
        (entry(gid=1), TEXT),
        (msgspec.structs.replace(entry(), xattrs=((b"user.a", b"b"),)), TEXT),
    ],
    ids=["bytes", "unasked", "path", "mtime", "mode", "uid", "gid", "xattrs"],
)
def test_a_file_that_differs_is_written(layer: Path, asked: Entry, content: bytes) -> None:
    assert found(layer).find(asked, content) is None


def test_the_last_file_of_a_name_counts(layer: Path) -> None:
    """`COPY a/ b/ /x/`: what a brought and b replaced must not be taken for known."""
    before = found(layer)
    assert before.find(entry(), TEXT)
    before.taken(b"f")
    assert before.find(entry(), OTHER) is None
    assert before.known == {}


@pytest.mark.parametrize("action", [CopyAction(1, "/f", "/f", unpack=True), MkfileAction("/f", b""), MkdirAction("/d")], ids=str)
def test_actions_that_write_without_asking_share_nothing(layer: Path, action: FileAction) -> None:
    assert earlier(FileOp((CopyAction(1, "/f", "/f"), action)), layer) is None


def test_without_an_earlier_layer_there_is_nothing_to_share(tmp_path: Path) -> None:
    op = FileOp((CopyAction(1, "/f", "/f"),))
    assert earlier(op, None) is None
    assert earlier(op, tmp_path) is None
