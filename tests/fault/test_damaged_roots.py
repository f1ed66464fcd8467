"""Damage done to a whole root after a build: `check` names it or it is nobody's loss, `--repair` mends it, and no build gives a wrong image.

Each kind of file is cut off, overwritten, flipped, emptied and taken away; layers lose files and get others; folders vanish.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.testing import faultlayer
from lamina.testing.faultlayer import Ended

pytestmark = pytest.mark.slow

DOCKERFILE = "FROM scratch AS a\nCOPY a /a\nFROM scratch\nCOPY --from=a /a /out\nCOPY b /b\nENV X=1\n"


class Root:
    """A project that was built twice, the second time all cached."""

    def __init__(self, folder: Path) -> None:
        self.context, self.root, self.sound = folder / "context", folder / "store", folder / "sound"
        (self.context / "a").mkdir(parents=True)
        for number in range(30):
            (self.context / "a" / f"{number}").write_bytes(b"%d" % number * 500)
        (self.context / "b").write_text("b")
        (self.context / "Dockerfile").write_text(DOCKERFILE)
        for path in [*self.context.rglob("*"), self.context]:
            os.utime(path, (1_700_000_000, 1_700_000_000))
        self.image = self.build().out.split()[-1]
        # Without times that are fixed there are receipts, once the files are older than a moment.
        self.plain = ""
        until = time.monotonic() + 120
        while not list(self.root.glob("context/receipt-*")) and time.monotonic() < until:
            self.plain = self.short().out.split()[-1]
        shutil.copytree(self.root, self.sound, symlinks=True)

    def run(self, *arguments: str) -> Ended:
        environment = {"LAMINA_ROOT": str(self.root), "LAMINA_SANDBOX": "none"}
        ended = faultlayer.lamina(arguments, environment, self.context, self.root, watched=False)
        assert "Traceback" not in ended.err, ended.err
        assert "a bug in lamina" not in ended.err, ended.err
        return ended

    def build(self) -> Ended:
        return self.run("build", "--progress=plain", "--reproducible", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "app:1", ".")

    def short(self) -> Ended:
        return self.run("build", "--progress=plain", "-t", "short:1", ".")

    def codes(self, *options: str) -> set[str]:
        ended = self.run("check", *options)
        assert ended.code in (0, 1, 74), (ended.code, ended.err)
        found = {line.partition(":")[0] for line in ended.out.splitlines() if line.startswith("check/")}
        return found if ended.code != 74 else {*found, ended.err.splitlines()[0]}

    def anew(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.sound, self.root, symlinks=True)

    def mended(self, what: str) -> None:
        """After `--repair`, of whatever depth, the store is sound, and the next build makes the same image from sound layers."""
        for _ in range(3):
            last = self.run("check", "--deep", "--repair")
        assert last.out == "the store is sound\n", f"{what}: {last.out}{last.err}"
        after = self.build()
        assert after.code == 0, f"{what}: {after.err}"
        assert after.out.split()[-1] == self.image, f"{what}: another image"
        assert self.codes("--deep") == set(), what


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return Root(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def root(built: Root) -> Root:
    built.anew()
    return built


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data), 97):
        data[at] ^= 0x55
    write(path, bytes(data))


def noise(path: Path) -> None:
    write(path, b"\xff\xfe\x00[{" * (path.stat().st_size // 5 + 1))


def gone(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def write(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


WAYS: list[Callable[[Path], None]] = [cut, empty, flip, noise, gone, folder]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", ["context/receipt-*", "context/*", "layers/*/sums", "layers/*/extra"])
def test_what_only_saves_work(root: Root, kind: str, way: Callable[[Path], None]) -> None:
    """No finding is owed: what is damaged there counts as absent, at once, without a repair."""
    found = [path for path in root.root.glob(kind) if path.is_file()]
    if not found:
        pytest.skip("there is no such file: of this flavour, or for layers as small")
    for path in found:
        way(path)
    for build, image in ((root.short, root.plain), (root.build, root.image)):
        ended = build()
        assert ended.code == 0, ended.err
        assert ended.out.split()[-1] == image
    root.mended(f"{way.__name__} {kind}")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", ["blobs/sha256/*", "index.json", "state.db", "VERSION", "oci-layout"])
def test_what_is_needed(root: Root, kind: str, way: Callable[[Path], None]) -> None:
    """Named by `check` (or the refusal is one line), no wrong image before the repair, and mended after it."""
    if way is folder and not kind.startswith("blobs"):
        pytest.skip("a folder in place of a file of ours is one line, and for people to remove")
    for path in sorted(root.root.glob(kind)):
        way(path)
    before = root.build()
    if before.code == 0:
        assert before.out.split()[-1] == root.image
    else:
        assert "error: " in before.err
    if kind == "VERSION" and before.code:
        assert root.run("check").code != 0, "what is not known to be a store is left alone, and said"
        return
    root.mended(f"{way.__name__} {kind}")


@pytest.mark.parametrize("way", [cut, empty, flip, noise, gone], ids=lambda way: way.__name__)
@pytest.mark.parametrize("which", ["-wal", "-shm", ""])
def test_a_database_that_was_in_use(root: Root, which: str, way: Callable[[Path], None]) -> None:
    """A copy made while the log was not yet in the file, as a killed machine leaves it; then damage."""
    connection = sqlite3.connect(root.root / "state.db", isolation_level=None)
    try:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("UPDATE images SET last_used=last_used+1")
        connection.execute("UPDATE records SET last_used=last_used+1")
        kept = {name: (root.root / f"state.db{name}").read_bytes() for name in ("", "-wal", "-shm")}
    finally:
        connection.close()
    for name, data in kept.items():
        (root.root / f"state.db{name}").write_bytes(data)
    way(root.root / f"state.db{which}")
    before = root.build()
    assert before.code == 0 or "error: " in before.err, before.err
    if before.code == 0:
        assert before.out.split()[-1] == root.image
    root.mended(f"{way.__name__} state.db{which}")


@pytest.mark.parametrize("name", ["blobs/sha256", "blobs", "layers", "active", "tmp", "leases", "locks", "context", "http", "cachemounts"])
def test_a_folder_that_vanished(root: Root, name: str) -> None:
    if not (root.root / name).exists():
        pytest.skip("not made yet")
    shutil.rmtree(root.root / name)
    before = root.build()
    assert before.code == 0 or "error: " in before.err, before.err
    if before.code == 0:
        assert before.out.split()[-1] == root.image
    root.mended(f"without {name}")


def other_bytes(file: Path) -> None:
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    write(file, bytes(data))
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda file: file.unlink(), "check/layer-damaged"),
        (empty, "check/layer-damaged"),
        (lambda file: file.with_name("new").write_text("x"), "check/layer-damaged"),
        (lambda file: shutil.rmtree(file.parents[len(file.parts) - 1 - file.parts.index("diff") - 1]), "check/layer-missing"),
        (other_bytes, "check/layer-changed"),
        (lambda file: file.chmod(0o777), "check/layer-changed"),
    ],
    ids=["file gone", "file empty", "file more", "diff gone", "other bytes", "other mode"],
)
def test_layers_that_changed(root: Root, change: Callable[[Path], object], code: str) -> None:
    layers = [path for path in (root.root / "layers").iterdir() if (path / "diff").is_dir()]
    for layer in layers:
        file = next((path for path in sorted(layer.glob("diff/**/*")) if path.is_file()), None)
        if file is not None:
            change(file)
    assert code in root.codes("--deep")
    root.mended(code)


def test_the_command_says_what_it_found(root: Root) -> None:
    """The real program, once: names, exit codes, and what is repaired."""
    (root.root / "blobs" / "sha256" / root.image.removeprefix("sha256:")).unlink()
    program = [sys.executable, "-m", "lamina", "--root", str(root.root)]
    for arguments, code in ((("check",), 1), (("check", "--repair"), 0)):
        done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert done.stdout.count("check/") == done.stdout.count("(mended)" if code == 0 else "--repair: ")
