"""Any set of entries: what is written as a tar is read again, by us and by the standard library, and becomes the same layer."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.diagnostics.errors import LaminaError
from lamina.layer.apply import apply_tar
from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.pack import pack
from lamina.layer.scan import entries
from lamina.layer.tarread import BadTar, TarReader
from lamina.layer.tarwrite import END, header, padding
from lamina.layer.view import LayerView
from lamina.testing.tars import archive, folder, hard_link, hostile_tars, member, symlink

PLAIN = Flavour("plain", IdMap("single"))
NAMES = st.binary(min_size=1, max_size=120).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join).filter(lambda path: b".wh." not in path)
IDS = st.integers(0, 2**32 - 2)
XATTR = st.tuples(
    st.binary(min_size=1, max_size=30).filter(lambda n: not {0, 61} & set(n)).map(lambda n: b"user." + n), st.binary(max_size=80)
)
ENTRIES = st.builds(
    Entry,
    path=PATHS,
    kind=st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO, Kind.CHARACTER, Kind.BLOCK]),
    mode=st.integers(0, 0o7777),
    uid=IDS,
    gid=IDS,
    size=st.integers(0, 3000),
    mtime=st.integers(-(2**40), 2**50).map(float),
    link=PATHS,
    major=st.integers(0, 4095),
    minor=st.integers(0, 2**20 - 1),
    xattrs=st.lists(XATTR, max_size=3, unique_by=lambda pair: pair[0]).map(lambda pairs: tuple(sorted(pairs))),
)


def canonical(entry: Entry) -> Entry:
    """What a tar can say of it."""
    device = entry.kind in (Kind.CHARACTER, Kind.BLOCK)
    linked = entry.kind in (Kind.SYMLINK, Kind.HARDLINK)
    return Entry(
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size if entry.kind is Kind.FILE else 0,
        entry.mtime,
        entry.link if linked else b"",
        entry.major if device else 0,
        entry.minor if device else 0,
        () if entry.kind is Kind.HARDLINK else entry.xattrs,
    )


@contextmanager
def layer() -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(prefix="lamina-test-"))
    try:
        (where / "diff").mkdir()
        yield where
    finally:
        shutil.rmtree(where)


@given(st.lists(ENTRIES, max_size=6))
def test_headers_are_read_as_they_were_written(listed: list[Entry]) -> None:
    raw = b""
    for entry in listed:
        body = b"b" * entry.size if entry.kind is Kind.FILE else b""
        raw += header(entry) + body + padding(len(body))
    found = list(TarReader(io.BytesIO(raw + END)))
    assert [Entry(e.path.removesuffix(b"/"), *[getattr(e, n) for n in Entry.__struct_fields__[1:]]) for e in found] == [
        canonical(e) for e in listed
    ]
    with tarfile.open(fileobj=io.BytesIO(raw + END), encoding="utf-8", errors="surrogateescape") as tar:
        members = [(os.fsencode(item.name), item.mode, item.uid, item.gid, item.mtime, item.size) for item in tar.getmembers()]
    # The standard library cuts trailing slashes only; names of ours have none.
    assert members == [(e.path, e.mode, e.uid, e.gid, e.mtime, e.size) for e in map(canonical, listed)]


WORDS = st.sampled_from(
    ["a", "b", "c", "ln", "a/b", "a/b/c", "ln/x", "b/ln", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", "./a", "/b"]
)
MEMBERS = st.one_of(
    st.builds(lambda name, body: member(name, body), WORDS, st.binary(max_size=10)),
    st.builds(folder, WORDS),
    st.builds(symlink, WORDS, st.sampled_from(["a", "/", "..", "ln", "/a/b", "../../b", "."])),
    st.builds(hard_link, WORDS, WORDS),
    st.builds(lambda name: member(name, kind=tarfile.FIFOTYPE), WORDS),
)


@settings(max_examples=300)
@given(st.lists(MEMBERS, max_size=12))
@example([folder("a"), member("a/b", b""), symlink("a", "/"), member("a/b", b"x"), folder("a")])
@example([symlink("ln", "a"), member("ln/x", b""), member("ln", b""), folder("ln"), member("ln/x", b"")])
@example([member("a/b", b"1"), hard_link("b", "a/b"), member("a", b"2"), hard_link("a", "b")])
def test_whatever_is_accepted_is_a_whole_layer_that_packs_and_applies_again(members: list[bytes]) -> None:
    with layer() as one, layer() as two:
        try:
            apply_tar(io.BytesIO(archive(members)), one, PLAIN)
        except BadTar:
            return
        out = io.BytesIO()
        pack(one, PLAIN, out)
        apply_tar(io.BytesIO(out.getvalue()), two, PLAIN)
        again = list(entries(two, PLAIN))
        assert again == list(entries(one, PLAIN))
        shown = {path for path, _ in LayerView([two], PLAIN).walk()}
        assert shown == {entry.path for entry in again if entry.kind not in (Kind.WHITEOUT, Kind.OPAQUE)}


SEEDS = [case.data for case in hostile_tars("/nowhere")]


@settings(max_examples=400)
@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8)), max_size=4), st.integers(0, 9000)
)
def test_damaged_archives_are_read_or_refused_in_one_way(seed: bytes, damage: list[tuple[int, bytes]], cut: int) -> None:
    raw = bytearray(seed)
    for at, patch in damage:
        raw[at % len(raw) : at % len(raw) + len(patch)] = patch
        # Half of the damage gets a right checksum, or nothing but checksums would be tested.
        start = at % len(raw) // 512 * 512
        head = raw[start : start + 512]
        if at % 2 and len(head) == 512:
            head[148:156] = b" " * 8
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(head)
    message = ""
    with layer() as where:
        try:
            apply_tar(io.BytesIO(bytes(raw[:cut])), where, PLAIN)
        except LaminaError as error:
            message = error.message
    assert "\n" not in message
