"""The same layer made by an ordinary user: the tar is the one that root makes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from lamina.layer.entry import Entry, Kind
from lamina.layer.flavour import Flavour
from lamina.layer.normal import normalise
from lamina.layer.pack import diff_id, pack
from lamina.layer.writer import EntryWriter
from lamina.testing import ordinary

SCRIPT = """
import sys
from pathlib import Path
from lamina.layer.apply import apply_tar
from lamina.layer.entry import Kind
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.normal import normalise
from lamina.layer.normal import normalise
from lamina.layer.pack import diff_id
from lamina.layer.view import LayerView
where, whiteouts, ids = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
flavour = Flavour(whiteouts, IdMap(ids))
(where / "diff").mkdir(parents=True)
with open(sys.argv[4], "rb") as tar:
    apply_tar(tar, where, flavour)
view = LayerView([where], flavour)
content = [view.content(path) for path, entry in view.walk() if entry.kind is Kind.FILE]
print(diff_id(where, flavour)[0], normalise(where, flavour).digest, len(content))
"""
LAYER = [
    Entry(b"closed", Kind.DIRECTORY, 0, 1000, 1000, 0, 1.0),
    Entry(b"closed/file", Kind.FILE, 0, 1000, 100000, 4, 1.0),
    Entry(b"closed/gone", Kind.WHITEOUT),
    Entry(b"closed/null", Kind.CHARACTER, 0o666, 5, 6, 0, 1.0, b"", 1, 3),
    Entry(b"closed/pipe", Kind.FIFO, 0o600, 5, 6, 0, 1.0),
    Entry(b"dir", Kind.DIRECTORY, 0o2755, 33, 33, 0, 1.0),
    Entry(b"dir", Kind.OPAQUE),
    Entry(b"ln", Kind.SYMLINK, 0o777, 7, 8, 0, 1.0, b"/etc"),
    Entry(b"ping", Kind.FILE, 0o755, 0, 0, 4, 1.0, xattrs=((b"security.capability", bytes.fromhex("01000002" + "00200000" + "00" * 12)),)),
    Entry(b"sudo", Kind.FILE, 0o4755, 0, 0, 4, 1.0, xattrs=((b"user.a", b"b"),)),
    Entry(b"sudo-too", Kind.HARDLINK, link=b"sudo"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an ordinary user can reach; pytest's own are closed to others."""
    where = Path(mkdtemp(prefix="lamina-test-", dir="/var/tmp"))
    where.chmod(0o755)
    yield where
    shutil.rmtree(where)


@pytest.mark.rootless
@pytest.mark.xdist_group("rootless")
@pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or "")
@pytest.mark.parametrize("whiteouts", ["plain", "user"])
def test_an_ordinary_user_makes_the_layer_that_root_makes(folder: Path, whiteouts: str) -> None:
    """`plain`: without any namespace. `user`: as the only id of a user namespace."""
    ordinary.make_user()
    trusted = Flavour("trusted")
    with TemporaryDirectory() as mine:
        layer = Path(mine)
        (layer / "diff").mkdir()
        with EntryWriter(layer, trusted) as writer:
            for entry in LAYER:
                writer.put(entry, io.BytesIO(b"data") if entry.kind is Kind.FILE else None)
        with (folder / "layer.tar").open("wb") as out:
            pack(layer, trusted, out)
        expected = [diff_id(layer, trusted)[0], normalise(layer, trusted).digest, "4"]
    arguments = ["-c", SCRIPT, str(folder / "theirs"), whiteouts, "single", str(folder / "layer.tar")]
    if whiteouts == "user":
        inner = "import os, sys; os.execvp('unshare', ['unshare', '--user', '--map-root-user', sys.executable, *sys.argv[1:]])"
        arguments = ["-c", inner, *arguments]
    done = ordinary.run(arguments, folder)
    if whiteouts == "user" and "unshare failed" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected
