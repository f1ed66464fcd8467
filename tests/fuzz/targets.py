"""What is fuzzed: each target takes any bytes and may end in nothing worse than a LaminaError.

`make fuzz` runs them under atheris (coverage-guided), `test_fuzz_seeds.py` runs the kept seeds and simple damages of them under pytest.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import parse
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lint import lint
from lamina.layer import listing
from lamina.layer.apply import apply_tar
from lamina.layer.extra import read_extra
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.scan import entries
from lamina.layer.statcache import StatCache
from lamina.layer.sums import read as read_sums
from lamina.layer.tarread import TarReader
from lamina.oci.config import parse_config
from lamina.oci.manifest import parse_document
from lamina.oci.reference import Reference

_PLAIN = Flavour("plain", IdMap("single"))
_MOST = 1 << 22  # bytes of one body that a target reads


def dockerfile(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    lint(parse(text))


def ignore(data: bytes) -> None:
    rules = IgnoreRules.parse(data.decode("utf-8", "surrogateescape"))
    folder = rules.root()
    for name in ("a", "b.txt", ".git", "é"):
        rules.ignored(f"src/{name}")
        folder.kept([name])
        folder = folder.directory(name)


def tar(data: bytes) -> None:
    reader = TarReader(io.BytesIO(data))
    for _ in reader:
        left = _MOST
        while left > 0 and (piece := reader.read(1 << 16)):
            left -= len(piece)


def layer(data: bytes) -> None:
    """Unpacked below a folder of its own; what is beside it stays."""
    top = Path(tempfile.mkdtemp(prefix="lamina-fuzz-"))
    try:
        (top / "layer").mkdir()
        (top / "victim").write_bytes(b"victim")
        try:
            apply_tar(io.BytesIO(data), top / "layer", _PLAIN)
            for _ in entries(top / "layer", _PLAIN):
                pass
        finally:
            assert sorted(path.name for path in top.iterdir()) == ["layer", "victim"]
            assert (top / "victim").read_bytes() == b"victim"
    finally:
        shutil.rmtree(top)


def manifest(data: bytes) -> None:
    parse_document(data)


def config(data: bytes) -> None:
    parse_config(data)


def reference(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    found = Reference.parse(text)
    assert Reference.parse(str(found)) == found


def sidefiles(data: bytes) -> None:
    """The small files of ours that a disk or a stranger may have damaged."""
    top = Path(tempfile.mkdtemp(prefix="lamina-fuzz-"))
    try:
        for name in ("extra", "sums", "statcache"):
            (top / name).write_bytes(data)
        listing.load(data)
        read_sums(top)
        StatCache(top / "statcache")
        read_extra(top)
    finally:
        shutil.rmtree(top)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (dockerfile, ignore, tar, layer, manifest, config, reference, sidefiles)
}


def run(target: Callable[[bytes], None], data: bytes) -> None:
    """Any other end than these is a finding."""
    try:
        target(data)
    except LaminaError as error:
        said = str(error)
        if not said or ("\n" in said and not error.code.startswith("dockerfile/")):
            raise AssertionError(f"not one clear line: {said!r}") from error
