"""The normalised diff: what counts and what does not. Its bytes are specified in docs/dev/keys.md."""

from __future__ import annotations

import gc
import io
import os
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.normal import NormalDiff, normalise
from lamina.layer.sums import Sum
from lamina.layer.writer import EntryWriter
from lamina.store.layers import measure

PLAIN = Flavour("plain", IdMap("single"))
BASE = [
    Entry(b"d", Kind.DIRECTORY, 0o755, 1, 2, 0, 1.0),
    Entry(b"d", Kind.OPAQUE),
    Entry(b"d/f", Kind.FILE, 0o644, 3, 4, 5, 1.0, xattrs=((b"user.a", b"1"), (b"user.b", b"\n"))),
    Entry(b"d/gone", Kind.WHITEOUT),
    Entry(b"h", Kind.HARDLINK, link=b"d/f"),
    Entry(b"l", Kind.SYMLINK, 0o777, 5, 6, 0, 1.0, b"d/f"),
    Entry(b"null", Kind.CHARACTER, 0o666, 0, 0, 0, 1.0, b"", 1, 3),
    Entry(b"p", Kind.FIFO, 0o600, 0, 0, 0, 1.0),
]


def made(where: Path, listed: list[Entry], body: bytes = b"bytes") -> Path:
    (where / "diff").mkdir(parents=True)
    with EntryWriter(where, PLAIN) as writer:
        for entry in listed:
            writer.put(entry, io.BytesIO(body) if entry.kind is Kind.FILE else None)
    return where


def test_the_bytes_are_those_of_the_specification(tmp_path: Path) -> None:
    expected = b"".join(
        [
            b"lamina-normal-diff-1\n",
            b"d 1:d 755 1 2\n",
            b"o 1:d\n",
            b"f 3:d/f 644 3 4 5 " + sha256(b"bytes").hexdigest().encode() + b" 6:user.a=1:1 6:user.b=1:\n\n",
            b"w 6:d/gone\n",
            b"h 1:h 3:d/f\n",
            b"l 1:l 0 5 6 3:d/f\n",
            b"c 4:null 666 0 0 1 3\n",
            b"p 1:p 600 0 0\n",
        ]
    )
    assert normalise(made(tmp_path / "a", BASE), PLAIN) == NormalDiff("sha256:" + sha256(expected).hexdigest(), 5, 8)


def test_names_and_bytes_on_disk_are_told_where_each_entry_is_one_name(tmp_path: Path) -> None:
    """Counting them again cost a tenth of a COPY of 50,000 files. A layer is compared with the count after the machine's next start."""
    simple = [entry for entry in BASE if entry.kind in (Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK)]
    folder = made(tmp_path / "a", [*simple, Entry(b"z", Kind.FILE, 0o600, 0, 0, 5, 1.0)])
    assert normalise(folder, PLAIN).on_disk == measure(folder / "diff") == (4, 10)
    for number, other in enumerate(entry for entry in BASE if entry not in simple):
        assert normalise(made(tmp_path / str(number), [*simple, other]), PLAIN).on_disk is None


def test_times_do_not_count(tmp_path: Path) -> None:
    one = normalise(made(tmp_path / "a", BASE), PLAIN)
    other = [replace(entry, mtime=99.0) for entry in BASE]
    assert normalise(made(tmp_path / "b", other), PLAIN) == one


CHANGES = {
    "mode": (2, {"mode": 0o600}),
    "suid": (2, {"mode": 0o4644}),
    "uid": (2, {"uid": 9}),
    "gid": (2, {"gid": 9}),
    "xattr": (2, {"xattrs": ((b"user.a", b"2"),)}),
    "name": (2, {"path": b"d/g"}),
    "folder's mode": (0, {"mode": 0o700}),
    "link": (5, {"link": b"d/g"}),
    "link's owner": (5, {"uid": 0}),
    "device": (6, {"minor": 5}),
    "fifo": (7, {"mode": 0o644}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_everything_else_counts(change: str, tmp_path: Path) -> None:
    where, fields = CHANGES[change]
    listed = [entry for entry in BASE if entry.kind is not Kind.HARDLINK]
    listed[where if where < 4 else where - 1] = replace(BASE[where], **fields)  # type: ignore[arg-type]  # a field's own type each
    before = [entry for entry in BASE if entry.kind is not Kind.HARDLINK]
    assert normalise(made(tmp_path / "a", before), PLAIN).digest != normalise(made(tmp_path / "b", listed), PLAIN).digest


@pytest.mark.parametrize("missing", range(len(BASE)), ids=lambda number: BASE[number].kind.name)
def test_every_entry_counts(missing: int, tmp_path: Path) -> None:
    if BASE[missing].path == b"d" and BASE[missing].kind is Kind.DIRECTORY:
        pytest.skip("the folder of others")
    listed = [entry for number, entry in enumerate(BASE) if number != missing]
    listed = [entry for entry in listed if missing != 2 or entry.kind is not Kind.HARDLINK]
    assert normalise(made(tmp_path / "a", BASE), PLAIN).digest != normalise(made(tmp_path / "b", listed), PLAIN).digest


def test_content_counts_and_a_copy_is_not_a_hard_link(tmp_path: Path) -> None:
    one = normalise(made(tmp_path / "a", BASE), PLAIN).digest
    assert normalise(made(tmp_path / "b", BASE, b"BYTES"), PLAIN).digest != one
    copy = [replace(BASE[2], path=b"h") if entry.path == b"h" else entry for entry in BASE]
    assert normalise(made(tmp_path / "c", copy), PLAIN).digest != one


def plain_files(where: Path) -> Path:
    """a, d/b with a second name d/c, d/x with an attribute, e; owned by whoever runs this."""
    (where / "diff/d").mkdir(parents=True)
    for name in ("a", "d/b", "d/x", "e"):
        (where / "diff" / name).write_bytes(name.encode())
    (where / "diff/d/c").hardlink_to(where / "diff/d/b")
    os.setxattr(where / "diff/d/x", "user.a", b"1")
    return where


def test_sums_have_what_a_later_layer_may_share(tmp_path: Path) -> None:
    """No file with a second name or an attribute: neither would be the same in another layer."""
    found: dict[bytes, Sum] = {}
    normalise(plain_files(tmp_path), Flavour("trusted"), None, found)
    told = (tmp_path / "diff/a").stat()
    assert set(found) == {b"a", b"e"}
    assert found[b"a"] == Sum(sha256(b"a").digest(), 1, told.st_mode & 0o7777, told.st_uid, told.st_gid, found[b"a"].mtime)
    assert told.st_mtime_ns // 1000 / 1_000_000 == found[b"a"].mtime


def test_a_layer_with_a_side_table_shares_nothing_that_it_may_speak_of(tmp_path: Path) -> None:
    found: dict[bytes, Sum] = {}
    normalise(made(tmp_path / "a", [Entry(b"f", Kind.FILE, 0o000, size=5)]), PLAIN, None, found)
    assert found == {}


def test_known_files_are_not_looked_at(tmp_path: Path) -> None:
    where, found = plain_files(tmp_path), dict[bytes, Sum]()
    one = normalise(where, Flavour("trusted"), None, found)
    (where / "diff/a").write_bytes(b"BYTES")
    (where / "diff/a").chmod(0o111)
    again: dict[bytes, Sum] = {}
    assert normalise(where, Flavour("trusted"), found, again) == one
    assert again == found


def test_large_files_are_hashed_by_threads_in_order(tmp_path: Path) -> None:
    (tmp_path / "diff").mkdir()
    expected = sha256(b"lamina-normal-diff-1\n")
    for number in range(100):
        body = os.urandom(8) * ((1 << 17) if number % 3 else 1)
        name = tmp_path / f"diff/{number:03}"
        name.write_bytes(body)
        name.chmod(0o644)
        expected.update(b"f 3:%03d 644 0 0 %d %s\n" % (number, len(body), sha256(body).hexdigest().encode()))
    gc.collect()  # what earlier tests left open
    before = len(os.listdir("/proc/self/fd"))
    assert normalise(tmp_path, PLAIN).digest == "sha256:" + expected.hexdigest()
    assert len(os.listdir("/proc/self/fd")) <= before
