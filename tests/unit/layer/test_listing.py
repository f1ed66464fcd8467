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
    other = zlib.compress(msgspec.msgpack.encode([{b"a": ["x"], b"b": 1}, True]))
    assert listing.compare_documents(other, listing.encode(listed(base()))) == []
