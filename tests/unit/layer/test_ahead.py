"""The diffID that a second process makes while the layer is written: the same as from the finished layer, or none."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from lamina.layer import ahead as ahead_module
from lamina.layer.ahead import Ahead
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.normal import normalise
from lamina.layer.pack import diff_id
from lamina.layer.writer import EntryWriter

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts of an overlay are written as root here")]

TRUSTED = Flavour("trusted")
OWNER = (os.geteuid(), os.getegid())


def folder(path: bytes, mode: int = 0o755) -> Entry:
    return Entry(path, Kind.DIRECTORY, mode, *OWNER, 0, 1.5)


def file(path: bytes, size: int = 3, mode: int = 0o644) -> Entry:
    return Entry(path, Kind.FILE, mode, *OWNER, size, 2.5)


TREE = [
    folder(b""),
    folder(b"a"),
    file(b"a/big", 70_000),
    file(b"a/x"),
    folder(b"a/y"),
    file(b"a/y/" + b"n" * 120),
    file(b"a.b", 0),
    Entry(b"link", Kind.SYMLINK, 0o777, *OWNER, 0, 3.0, b"a/x"),
    folder(b"z", 0o700),
]


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "layer/diff").mkdir(parents=True)
    monkeypatch.setattr(ahead_module, "MANY", 4)
    monkeypatch.setattr(ahead_module, "_BATCH", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    return tmp_path / "layer"


@pytest.fixture
def made(layer: Path) -> Iterator[Callable[[list[Entry]], Ahead]]:
    made: list[Ahead] = []

    def make(entries: list[Entry]) -> Ahead:
        with EntryWriter(layer, TRUSTED) as writer:
            made.append(Ahead(writer, layer))
            for entry in entries:
                made[-1].put(entry, io.BytesIO(b"x" * entry.size) if entry.kind is Kind.FILE else None)
            made[-1].finish()
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_is_that_of_the_finished_layer(made: Callable[[list[Entry]], Ahead], layer: Path) -> None:
    found = made(TREE)
    assert normalise(layer, TRUSTED, told=found.told).as_told
    assert found.result() == diff_id(layer, TRUSTED)


def test_a_layer_that_was_renamed_meanwhile(made: Callable[[list[Entry]], Ahead], layer: Path, tmp_path: Path) -> None:
    found = made(TREE)
    layer.rename(tmp_path / "named")
    assert found.result() == diff_id(tmp_path / "named", TRUSTED)


def test_a_shared_file_is_read_from_the_new_layer(layer: Path, tmp_path: Path) -> None:
    (tmp_path / "stored").write_bytes(b"abc")
    with EntryWriter(layer, TRUSTED) as writer:
        found = Ahead(writer, layer)
        for entry in [folder(b"d"), *(file(b"d/%d" % number) for number in range(4))]:
            found.put(entry, io.BytesIO(b"xyz") if entry.kind is Kind.FILE else None)
        assert found.share(replace(file(b"e"), mtime=(tmp_path / "stored").stat().st_mtime), os.fsencode(tmp_path / "stored"))
        found.finish()
    assert normalise(layer, TRUSTED, told=found.told).as_told
    assert found.result() == diff_id(layer, TRUSTED)


@pytest.mark.parametrize(
    "more",
    [
        [file(b"a/x")],
        [file(b"a/zz")],
        [Entry(b"zz", Kind.FIFO, 0o644)],
        [replace(file(b"zz"), xattrs=((b"user.a", b"b"),))],
    ],
    ids=["twice", "out of order", "kind", "xattrs"],
)
def test_what_cannot_be_followed_is_given_up(made: Callable[[list[Entry]], Ahead], more: list[Entry]) -> None:
    found = made(TREE + more)
    assert found.told is None
    assert found.result() is None


def test_what_is_taken_away_is_given_up(layer: Path) -> None:
    with EntryWriter(layer, TRUSTED) as writer:
        found = Ahead(writer, layer)
        for entry in TREE:
            found.put(entry, io.BytesIO(b"x" * entry.size) if entry.kind is Kind.FILE else None)
        found.remove(b"a.b")
        found.finish()
    assert found.result() is None


def test_few_entries_start_no_process(made: Callable[[list[Entry]], Ahead]) -> None:
    found = made(TREE[:4])
    assert found.told is None
    assert found.result() is None


def test_nor_does_a_machine_with_one_processor(made: Callable[[list[Entry]], Ahead], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert made(TREE).told is None


@pytest.mark.parametrize("number", range(1, len(TREE)))
def test_a_layer_that_is_another_than_was_told_does_not_count(made: Callable[[list[Entry]], Ahead], layer: Path, number: int) -> None:
    found = made(TREE)
    assert found.told is not None
    entry = found.told[number - 1]
    for other in (replace(entry, mode=0o611), replace(entry, uid=9), replace(entry, mtime=99.0), replace(entry, path=b"q"), None):
        told = [*found.told[: number - 1], *([other] if other else []), *found.told[number:]]
        assert not normalise(layer, TRUSTED, told=told).as_told
    assert not normalise(layer, TRUSTED, told=[*found.told, entry]).as_told


def test_a_process_that_dies_is_no_answer(made: Callable[[list[Entry]], Ahead]) -> None:
    found = made(TREE)
    assert found._process is not None
    found._process.kill()
    assert found.result() is None


def test_batches_that_break_off_are_no_answer(layer: Path) -> None:
    root = os.open(layer / "diff", os.O_RDONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "lamina.layer.ahead", str(root)], input=b"\0\0", capture_output=True, pass_fds=(root,), check=False
        )
    finally:
        os.close(root)
    assert done.returncode != 0
    assert done.stdout == b""


def test_closing_leaves_no_process(made: Callable[[list[Entry]], Ahead]) -> None:
    found = made(TREE)
    assert found._process is not None
    pid = found._process.pid
    found.close()
    found.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
