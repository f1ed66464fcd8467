from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path

import pytest

from lamina.layer import context as context_module
from lamina.layer import reading
from lamina.layer.context import ContextTree, IgnoreFolder
from lamina.layer.entry import Kind
from lamina.layer.reading import ContextChanged, ContextUnreadable
from lamina.layer.selection import SourceNotFound, select
from lamina.layer.statcache import RACY, Node, StatCache


class Without:
    """Ignore rules of the simplest sort: these paths, and what is below them, but not `except_`."""

    def __init__(self, *paths: str, except_: tuple[str, ...] = ()) -> None:
        self.patterns = (*paths, *(f"!{path}" for path in except_))
        self.hidden = paths
        self.exceptions = except_

    def root(self) -> IgnoreFolder:
        return WithoutFolder(self, "", False)


class WithoutFolder:
    def __init__(self, rules: Without, path: str, ignored: bool) -> None:
        self.rules, self.path, self.ignored = rules, path, ignored
        self.skip = ignored and not any(path.startswith(self.path + "/") for path in rules.exceptions)

    def _verdict(self, name: str) -> bool:
        path = f"{self.path}/{name}" if self.path else name
        return (self.ignored or path in self.rules.hidden) and path not in self.rules.exceptions

    def directory(self, name: str) -> IgnoreFolder:
        return WithoutFolder(self.rules, f"{self.path}/{name}" if self.path else name, self._verdict(name))

    def kept(self, names: object) -> list[str]:
        return [name for name in list(names) if not self._verdict(name)]  # type: ignore[call-overload]  # names of any iterable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "ctx"
    (root / "src/deep").mkdir(parents=True)
    (root / "src/a.py").write_bytes(b"a")
    (root / "src/deep/b.py").write_bytes(b"b")
    (root / "top").write_bytes(b"top")
    (root / "link").symlink_to("src/a.py")
    (root / "folder-link").symlink_to("src")
    (root / "out").symlink_to("/etc")
    (root / "up").symlink_to("../../../../etc/passwd")
    return root


def whole(tree: ContextTree) -> str:
    return select(tree, ".").digest()


def later(monkeypatch: pytest.MonkeyPatch, nanoseconds: int = 10 * RACY) -> None:
    """The clock of the next trees runs ahead, as if all files had been written long ago."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + nanoseconds)


def watch_reads(monkeypatch: pytest.MonkeyPatch, read: list[bytes]) -> None:
    real = reading.digest_file

    def noted(fd: int, node: Node) -> None:
        read.append(node.name)
        real(fd, node)

    monkeypatch.setattr(context_module, "digest_file", noted)


def test_shape(root: Path) -> None:
    tree = ContextTree(root)
    assert tree.children(b"") == [b"folder-link", b"link", b"out", b"src", b"top", b"up"]
    found = tree.entry(b"src/a.py")
    assert found is not None
    assert (found.kind, found.uid, found.gid, found.size) == (Kind.FILE, 0, 0, 1)
    assert tree.entry(b"nothing") is None
    assert tree.entry(b"top/below") is None
    assert tree.open(b"src/a.py").read() == b"a"
    assert tree.content(b"src/a.py") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def test_links_stay_inside(root: Path) -> None:
    tree = ContextTree(root)
    assert tree.resolve(b"link") == b"src/a.py"
    assert tree.resolve(b"folder-link/deep/b.py") == b"src/deep/b.py"
    assert tree.entry(b"folder-link/a.py") is not None
    assert tree.resolve(b"out") is None
    assert tree.resolve(b"out/passwd") is None
    assert tree.resolve(b"up") is None
    assert tree.entry(b"out/passwd") is None
    with pytest.raises(ContextUnreadable):
        tree.open(b"out")


def test_umask_does_not_count_unless_asked(root: Path) -> None:
    (root / "top").chmod(0o644)
    (root / "src").chmod(0o755)
    before, exact = whole(ContextTree(root)), whole(ContextTree(root, exact_modes=True))
    (root / "top").chmod(0o664)
    (root / "src").chmod(0o775)
    assert whole(ContextTree(root)) == before
    assert whole(ContextTree(root, exact_modes=True)) != exact
    (root / "top").chmod(0o666)
    found = ContextTree(root).entry(b"top")
    assert found is not None
    assert found.mode == 0o666
    assert whole(ContextTree(root)) != before


def test_sockets_are_left_out_fifos_not(root: Path) -> None:
    before = whole(ContextTree(root))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "s"))
        assert whole(ContextTree(root)) == before
    os.mkfifo(root / "fifo")
    assert whole(ContextTree(root)) != before


def test_ignored_names_do_not_exist(root: Path) -> None:
    tree = ContextTree(root, Without("src/deep", "top"))
    assert tree.entry(b"src/deep/b.py") is None
    assert tree.children(b"src") == [b"a.py"]
    assert tree.hidden(b"top")
    assert tree.hidden(b"src/deep/b.py")
    assert not tree.hidden(b"none")
    assert tree.resolve(b"folder-link/deep") is None
    with pytest.raises(SourceNotFound, match="excluded"):
        select(tree, "top")


def test_ignored_folder_with_an_exception_is_there(root: Path) -> None:
    tree = ContextTree(root, Without("src", except_=("src/deep/b.py",)))
    assert tree.children(b"src") == [b"deep"]
    assert tree.entry(b"src/deep/b.py") is not None
    assert tree.entry(b"src/a.py") is None
    assert b"src" not in ContextTree(root, Without("src", except_=("src/none/x",))).children(b"")


def test_what_is_ignored_does_not_count(root: Path, tmp_path: Path) -> None:
    rules = Without("src/deep", "top")
    cache = tmp_path / "cache"
    before = whole(tree := ContextTree(root, rules, StatCache(cache)))
    tree.save()
    (root / "src/deep/new").write_bytes(b"new")
    (root / "top").write_bytes(b"changed")
    assert whole(ContextTree(root, rules, StatCache(cache))) == before
    assert whole(ContextTree(root, None, StatCache(cache))) != before


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", "ü".encode(), b" ", b"-n"])
def test_any_name(root: Path, name: bytes) -> None:
    path = os.fsencode(root) + b"/src/" + name
    with open(path, "wb") as file:
        file.write(b"x")
    tree = ContextTree(root, Without("none"))
    assert name in tree.children(b"src")
    assert tree.content(b"src/" + name) == hashlib.sha256(b"x").hexdigest()
    whole(tree)
    tree.save()


def test_warm_equals_cold(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    cold = ContextTree(root, cache=StatCache(tmp_path / "c"))
    digest = whole(cold)
    cold.save()
    read: list[bytes] = []
    monkeypatch.setattr(context_module, "digest_file", lambda fd, node: read.append(node.name))
    warm = ContextTree(root, cache=StatCache(tmp_path / "c"))
    assert whole(warm) == digest
    assert read == []
    stamp = (tmp_path / "c").stat().st_mtime_ns
    warm.save()
    assert (tmp_path / "c").stat().st_mtime_ns == stamp


def test_a_change_with_an_old_mtime_and_equal_size_is_seen(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(root / "top", (0, 0))
    later(monkeypatch)
    tree = ContextTree(root, cache=StatCache(tmp_path / "c"))
    before = whole(tree)
    tree.save()
    (root / "top").write_bytes(b"TOP")
    os.utime(root / "top", (0, 0))
    assert whole(ContextTree(root, cache=StatCache(tmp_path / "c"))) != before


def test_racily_clean_files_are_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ContextTree(root, cache=StatCache(tmp_path / "c"))
    digest = whole(tree)
    tree.save()
    read: list[bytes] = []
    watch_reads(monkeypatch, read)
    assert whole(ContextTree(root, cache=StatCache(tmp_path / "c"))) == digest
    assert set(read) == {b"a.py", b"b.py", b"top"}


def test_only_the_changed_file_is_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    tree = ContextTree(root, cache=StatCache(tmp_path / "c"))
    digest = whole(tree)
    tree.save()
    (root / "src/c.py").write_bytes(b"c")
    read: list[bytes] = []
    watch_reads(monkeypatch, read)
    assert whole(ContextTree(root, cache=StatCache(tmp_path / "c"))) != digest
    assert read == [b"c.py"]


def test_removed_and_renamed_names_count(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    seen = set()
    for act in (
        lambda: None,
        (root / "src/a.py").unlink,
        lambda: (root / "src/deep").rename(root / "src/deeper"),
        lambda: (root / "e").mkdir(),
    ):
        act()
        tree = ContextTree(root, cache=StatCache(cache))
        seen.add(whole(tree))
        tree.save()
        assert whole(ContextTree(root)) == whole(tree)
    assert len(seen) == 4


@pytest.mark.parametrize("damage", [b"", b"lamina-statcache-1\nxxxx", b"\x00" * 100])
def test_a_damaged_cache_is_an_empty_one(root: Path, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "c"
    tree = ContextTree(root, cache=StatCache(cache))
    digest = whole(tree)
    tree.save()
    good = cache.read_bytes()
    for broken in (damage, good[:-3], good[:40] + bytes([good[40] ^ 1]) + good[41:]):
        cache.write_bytes(broken)
        assert whole(ContextTree(root, cache=StatCache(cache))) == digest


def test_a_file_that_changes_between_digest_and_copy_is_an_error(root: Path) -> None:
    tree = ContextTree(root)
    whole(tree)
    (root / "top").write_bytes(b"other text")
    with pytest.raises(ContextChanged):
        tree.open(b"top")


def test_xattrs_count(root: Path) -> None:
    before = whole(ContextTree(root))
    try:
        os.setxattr(root / "top", "user.note", b"x")
    except OSError:
        pytest.skip("this filesystem has no user xattrs")
    tree = ContextTree(root)
    assert whole(tree) != before
    found = tree.entry(b"top")
    assert found is not None
    assert found.xattrs == ((b"user.note", b"x"),)


def test_large_files_of_one_folder(root: Path) -> None:
    for number in range(3):
        (root / f"src/big{number}").write_bytes(bytes([number]) * (1 << 20))
    assert whole(ContextTree(root)) == whole(ContextTree(root))
    assert ContextTree(root).content(b"src/big0") != ContextTree(root).content(b"src/big1")


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(ContextUnreadable):
        whole(ContextTree(tmp_path / "none"))
