from __future__ import annotations

import zlib

import msgspec
import pytest

from lamina.layer import listing
from lamina.layer.entry import Entry, Kind
from lamina.layer.selection import select
from lamina.testing.trees import MemoryTree


def base() -> MemoryTree:
    return MemoryTree().file("d/a", b"1").file("d/b/c", b"2").link("d/l", "a")


def listed(tree: MemoryTree, source: str = "d") -> listing.Listing:
    found = listing.load(listing.dump(listing.make(select(tree, source))))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changed", "path", "change"),
    [
        (Entry(b"d/new", Kind.DIRECTORY, 0o755), b"new", "added"),
        (Entry(b"d/a", Kind.SYMLINK, 0o777, link=b"x"), b"a", "changed"),
        (Entry(b"d/a", Kind.FILE, 0o600), b"a", "mode-changed"),
        (Entry(b"d/b", Kind.DIRECTORY, 0o755, 9), b"b", "owner-changed"),
        (Entry(b"d/a", Kind.FILE, 0o644, xattrs=((b"user.x", b"1"),)), b"a", "xattrs-changed"),
        (Entry(b"d", Kind.DIRECTORY, 0o700), b"", "mode-changed"),
    ],
)
def test_changes_are_named(changed: Entry, path: bytes, change: str) -> None:
    before, after = listed(base()), listed(base().add(changed))
    found = listing.compare(before, after)
    assert listing.compare_documents(listing.dump(before), listing.encode(after)) == found
    assert [(difference.path, difference.change) for difference in found] == [(path, change)]


def test_content_and_removal() -> None:
    assert [d.change for d in listing.compare(listed(base()), listed(base().file("d/a", b"other")))] == ["changed"]
    assert [(d.path, d.change) for d in listing.compare(listed(base().file("d/z")), listed(base()))] == [(b"z", "removed")]
    assert listing.compare(listed(base()), listed(base())) == []


def test_single_file_and_patterns() -> None:
    assert set(listed(base(), "d/a").items) == {b"a"}
    assert set(listed(base(), "*").items) == {b"d", b"d/a", b"d/b", b"d/b/c", b"d/l"}


def test_folders_that_are_as_they_were_are_not_read() -> None:
    """What a folder holds is compared as bytes: one that is equal may be anything."""
    items = {b"a": ["f", b"1", 0o644, 0, 0, b"-"]}
    old = zlib.compress(msgspec.msgpack.encode([{b"": items, b"odd": [1, 2]}, True]))
    new = msgspec.msgpack.encode([{b"": items | {b"b": items[b"a"]}, b"odd": [1, 2]}, True])
    assert [(d.path, d.change) for d in listing.compare_documents(old, new)] == [(b"b", "added")]


def test_a_folder_that_is_gone_or_new_is_told_with_what_it_held() -> None:
    before, after = listed(base().file("d/old/x")), listed(base().file("d/new/y/z"))
    found = [(d.path, d.change) for d in listing.compare(before, after)]
    assert found == [(b"new", "added"), (b"new/y", "added"), (b"new/y/z", "added"), (b"old", "removed"), (b"old/x", "removed")]
    assert [(d.path, d.change) for d in listing.compare_documents(listing.dump(before), listing.encode(after))] == found


def test_a_cut_off_listing_makes_no_false_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    full = listed(base())
    monkeypatch.setattr(listing, "LIMIT", 2)
    part = listed(base())
    assert not part.complete
    assert listing.compare(full, part) == []
    assert listing.compare(part, full) == []
    assert listing.compare_documents(listing.dump(full), listing.encode(part)) == []
    assert listing.compare_documents(listing.dump(part), listing.encode(full)) == []


@pytest.mark.parametrize("data", [b"", b"xx", zlib.compress(b"\xc1"), listing.dump(listing.Listing({}))[:-2]])
def test_damaged(data: bytes) -> None:
    assert listing.load(data) is None
    assert listing.compare_documents(data, listing.encode(listed(base()))) == []
    assert listing.compare_documents(listing.dump(listed(base())), data[:-1]) == []


def test_items_of_another_shape_are_no_listing() -> None:
    other = zlib.compress(msgspec.msgpack.encode([{b"": {b"a": ["x"], b"b": 1}}, True]))
    assert listing.load(other) is None
    assert listing.compare_documents(other, listing.encode(listed(base()))) == []
