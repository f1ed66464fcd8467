"""Files that a client sends: what arrives, what is not sent again, and names that lead elsewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lamina.server.buildkit import gofiles
from lamina.server.buildkit import messages as m
from lamina.server.buildkit.grpc import Method, RpcError, ServerCall
from lamina.server.buildkit.receiving import fetch
from lamina.server.buildkit.sessions import FILE_SYNC, Session
from lamina.testing.buildkitclient import Offer, connected, send_entries

_FILE = 0o644
_DIR = gofiles.file_mode(stat.S_IFDIR, 0o755)
_LINK = gofiles.file_mode(stat.S_IFLNK, 0o777)


def _fetch(method: Method, place: Path, follow: tuple[str, ...] = ()) -> Path:
    place.mkdir(exist_ok=True)
    with connected({FILE_SYNC: method}) as connection:
        return fetch(Session("s", "", [FILE_SYNC], connection), "context", place, follow=follow)


def _folder(tmp_path: Path) -> Path:
    root = tmp_path / "client"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"alpha")
    (root / "sub" / "b").write_bytes(bytes(300_000))
    (root / "sub" / "deep" / "run").write_bytes(b"#!")
    (root / "sub" / "deep" / "run").chmod(0o755)
    (root / "link").symlink_to("../outside")
    (root / "empty").write_bytes(b"")
    os.mkfifo(root / "pipe")
    return root


def _seen(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        one = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        mode = 0 if path.is_symlink() else stat.S_IMODE(one.st_mode)
        found[str(path.relative_to(root))] = (stat.S_IFMT(one.st_mode), mode, content)
    return found


def test_everything_arrives_as_it_is(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    (root / "pipe").chmod(0o600)
    got = _fetch(Offer({"context": root})._send_folder, tmp_path / "place")
    assert _seen(got) == _seen(root)
    assert (got / "sub" / "b").stat().st_mtime_ns == (root / "sub" / "b").stat().st_mtime_ns
    assert (got / "sub").stat().st_mtime_ns == (root / "sub").stat().st_mtime_ns


def test_only_what_changed_is_asked_for_again(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    _fetch(Offer({"context": root})._send_folder, tmp_path / "place")
    (root / "a.txt").write_bytes(b"other")
    (root / "sub" / "deep" / "run").unlink()
    (root / "new").write_bytes(b"new")
    offer = Offer({"context": root})
    got = _fetch(offer._send_folder, tmp_path / "place")
    assert sorted(offer.asked) == ["a.txt", "context", "new"]
    (root / "pipe").chmod(0o600)
    assert _seen(got) == _seen(root)


def test_a_file_becomes_a_folder_and_back(tmp_path: Path) -> None:
    root = tmp_path / "client"
    (root / "x").mkdir(parents=True)
    (root / "x" / "y").write_bytes(b"1")
    place = tmp_path / "place"
    _fetch(Offer({"context": root})._send_folder, place)
    (root / "x" / "y").unlink()
    (root / "x").rmdir()
    (root / "x").write_bytes(b"file")
    assert (_fetch(Offer({"context": root})._send_folder, place) / "x").read_bytes() == b"file"
    (root / "x").unlink()
    (root / "x").mkdir()
    assert _seen(_fetch(Offer({"context": root})._send_folder, place)) == _seen(root)


def test_names_of_any_bytes_and_more_files_than_are_asked_for_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "client"
    root.mkdir()
    for number in range(300):
        (root / f"{number:03}").write_bytes(b"%d" % number)
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    assert _seen(_fetch(Offer({"context": root})._send_folder, tmp_path / "place")) == _seen(root)


def _sending(*found: tuple[m.Stat, bytes]) -> Method:
    return lambda call: send_entries(call, list(found), [])


def test_a_hard_link_is_one(tmp_path: Path) -> None:
    files = (m.Stat(b"a", _FILE, size=1), b"1"), (m.Stat(b"b", _FILE, size=1, linkname=b"a"), b"")
    for _ in range(2):
        got = _fetch(_sending(*files), tmp_path / "place")
        assert (got / "a").stat().st_ino == (got / "b").stat().st_ino


@pytest.mark.parametrize(
    "path", [b"../x", b"/etc/x", b"a/../../x", b".", b"..", b"", b"a//b", b"a/./b", b"x\0y", b"n" * 256, b"d/" * 2100 + b"x", b"absent/x"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, path: bytes) -> None:
    with pytest.raises(RpcError):
        _fetch(_sending((m.Stat(path, _FILE, size=1), b"1")), tmp_path / "place")
    assert sorted(os.listdir(tmp_path)) == ["place"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = m.Stat(b"l", _LINK, linkname=os.fsencode(outside))
    with pytest.raises(RpcError):
        _fetch(_sending((link, b""), (m.Stat(b"l/x", _FILE, size=1), b"1")), tmp_path / "place")
    with pytest.raises(RpcError):  # the same name twice
        _fetch(_sending((link, b""), (m.Stat(b"l", _DIR), b""), (m.Stat(b"l/x", _FILE, size=1), b"1")), tmp_path / "place")
    assert os.listdir(outside) == []


def test_a_link_from_an_earlier_transfer_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    _fetch(_sending((m.Stat(b"l", _LINK, linkname=os.fsencode(outside)), b"")), tmp_path / "place")
    _fetch(_sending((m.Stat(b"l", _DIR), b""), (m.Stat(b"l/x", _FILE, size=1), b"1")), tmp_path / "place")
    assert os.listdir(outside) == []


@pytest.mark.parametrize("target", [b"../x", b"/etc/passwd", b"absent", b"b", b"l"])
def test_hard_links_to_what_was_not_sent_are_refused(tmp_path: Path, target: bytes) -> None:
    link = m.Stat(b"l", _LINK, linkname=b"/etc/passwd")
    with pytest.raises(RpcError):
        _fetch(_sending((m.Stat(b"b", _FILE, linkname=target), b""), (link, b"")), tmp_path / "place")


def _packets(*packets: m.Packet) -> Method:
    def send(call: ServerCall) -> None:
        for packet in packets:
            call.send(packet)

    return send


@pytest.mark.parametrize(
    ("packets", "message"),
    [
        ((m.Packet(0, m.Stat(b"a", _FILE)),), "early"),
        ((m.Packet(2, id=5, data=b"x"),), "nobody asked"),
        ((m.Packet(0), m.Packet(0, m.Stat(b"a", _FILE))), "early|out of order"),
        ((m.Packet(4, data=b"changed while it was read"),), "changed while it was read"),
        ((m.Packet(7),), "out of order"),
        ((m.Packet(0, m.Stat(b"a", _FILE)), m.Packet(3)), "early"),
        ((), "early"),
    ],
)
def test_a_sender_that_breaks_the_rules_is_one_error(tmp_path: Path, packets: tuple[m.Packet, ...], message: str) -> None:
    with pytest.raises(RpcError, match=message):
        _fetch(_packets(*packets), tmp_path / "place")


def test_a_broken_transfer_leaves_no_descriptor_and_the_next_one_works(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(RpcError):
            _fetch(_packets(m.Packet(0, m.Stat(b"a", _FILE, size=9)), m.Packet(0), m.Packet(2, id=0, data=b"part")), tmp_path / "place")
    assert not (tmp_path / "place" / "files" / "a").exists()
    assert len(os.listdir("/proc/self/fd")) <= before
    got = _fetch(_sending((m.Stat(b"a", _FILE, size=1), b"1")), tmp_path / "place")
    assert (got / "a").read_bytes() == b"1"


def test_paths_with_letters_beyond_ascii_are_told_encoded(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}

    def note(call: ServerCall) -> None:
        seen.update(call.metadata)
        send_entries(call, [], [])

    _fetch(note, tmp_path / "place", ("käse", "a b"))
    assert seen["followpaths"] == ["k%C3%A4se", "a+b"]
    assert seen["followpaths-encoded"] == ["1"]


def test_a_folder_of_the_earlier_transfer_becomes_a_link(tmp_path: Path) -> None:
    """The removal of the old folder closes descriptors: what comes in its place is still made in the right folder."""
    (tmp_path / "place" / "files" / "sub" / "a" / "deep").mkdir(parents=True)
    method = _sending((m.Stat(b"sub", _DIR), b""), (m.Stat(b"sub/a", _LINK, linkname=b"target"), b""))
    got = _fetch(method, tmp_path / "place")
    assert os.readlink(got / "sub" / "a") == "target"
