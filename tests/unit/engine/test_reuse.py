from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lamina.engine.reuse import Earlier, earlier
from lamina.graph.ops import CopyAction, FileAction, FileOp, MkdirAction, MkfileAction
from lamina.layer import sums
from lamina.layer.entry import Entry, Kind

TEXT = hashlib.sha256(b"text").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "diff").mkdir()
    (tmp_path / "diff" / "f").write_bytes(b"text")
    os.utime(tmp_path / "diff" / "f", ns=(5_000_000_000, 5_000_000_000))
    sums.write(tmp_path, {b"f": TEXT})
    return tmp_path


def entry(path: bytes = b"f", mtime: float = 5.0) -> Entry:
    return Entry(path, Kind.FILE, 0o644, 0, 0, 4, mtime)


def found(layer: Path) -> Earlier:
    op = FileOp((CopyAction(1, "/f", "/f"),))
    made = earlier(op, layer)
    assert made is not None
    return made


def test_an_equal_file_is_shared_and_its_digest_known(layer: Path) -> None:
    before = found(layer)
    assert before(entry(), TEXT) == os.fsencode(layer / "diff" / "f")
    assert before.known == {b"f": TEXT}


@pytest.mark.parametrize(
    ("asked", "content"), [(entry(), OTHER), (entry(b"g"), TEXT), (entry(mtime=6.0), TEXT)], ids=["bytes", "path", "mtime"]
)
def test_a_file_that_differs_is_written(layer: Path, asked: Entry, content: str) -> None:
    before = found(layer)
    assert before(asked, content) is None
    assert before.known == {}


def test_the_last_file_of_a_name_counts(layer: Path) -> None:
    """`COPY a/ b/ /x/`: what a brought and b replaced must not be taken for known."""
    before = found(layer)
    assert before(entry(), TEXT)
    assert before(entry(), OTHER) is None
    assert before.known == {}


@pytest.mark.parametrize("action", [CopyAction(1, "/f", "/f", unpack=True), MkfileAction("/f", b""), MkdirAction("/d")], ids=str)
def test_actions_that_write_without_asking_share_nothing(layer: Path, action: FileAction) -> None:
    assert earlier(FileOp((CopyAction(1, "/f", "/f"), action)), layer) is None


def test_without_an_earlier_layer_there_is_nothing_to_share(tmp_path: Path) -> None:
    op = FileOp((CopyAction(1, "/f", "/f"),))
    assert earlier(op, None) is None
    assert earlier(op, tmp_path) is None
