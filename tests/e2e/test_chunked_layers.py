"""A large layer's next version moves what is new, to the cache and from it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from lamina.testing.project import Project

pytest.importorskip("pyfastcdc", reason="the extra `chunks`")
SIZE = int(os.environ.get("LAMINA_CHUNKS_MB", "12"))  # MB of the layer


@pytest.fixture
def two(project: Project, seeded_store: Path, tmp_path: Path) -> Project:
    """Another machine with the same checkout."""
    shutil.copytree(seeded_store, tmp_path / "second", symlinks=True)
    return Project(project.folder, tmp_path / "second")


def layer(project: Project, *, changed: int = 0) -> None:
    """Files that do not compress, all of them with new times; a tenth of the bytes (1 MB at most) is new in each version `changed`."""
    source = random.Random(7)
    parts = [source.randbytes(1 << 19) for _ in range(2 * SIZE)]
    if changed:
        parts[SIZE] = random.Random(changed).randbytes(1 << 19)
    for number, data in enumerate(parts):
        path = project.folder / f"parts/{number:03d}"
        project.write({str(path.relative_to(project.folder)): data})
    project.dockerfile(f"FROM base:1\nCOPY parts /parts\nRUN cat /parts/* > /whole && rm -r /parts && echo {changed}\n")


def total(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_changed_layer_moves_what_is_new(project: Project, two: Project, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    layer(project)
    project.build("--cache-to", f"dir:{cache}")
    assert not (cache / "chunks").exists(), "the first version goes whole"
    layer(project, changed=1)
    project.build("--cache-from", f"dir:{cache}", "--cache-to", f"dir:{cache}")
    assert list((cache / "chunks").rglob("*")), "the second goes as chunks, for those to come"
    first, old = total(cache), list((cache / "chunks").rglob("*"))
    layer(two, changed=1)
    assert two.build("--cache-from", f"dir:{cache}", "-t", "a:1", "--output", f"type=oci,dest={tmp_path}/one.tar").verdicts() == "CC"
    layer(project, changed=2)
    project.build("--cache-from", f"dir:{cache}", "--cache-to", f"dir:{cache}", "-t", "a:2")
    assert total(cache) - first < 0.15 * first
    for path in old:
        if path.is_file():
            path.unlink()  # the second machine has those bytes in its own version
    again = two.build("--cache-from", f"dir:{cache}", "-t", "a:2", "--output", f"type=oci,dest={tmp_path}/two.tar")
    assert again.verdicts() == "CC"


@pytest.mark.slow
def test_a_machine_without_the_extra_fetches_and_says_once_that_it_cannot_cut(project: Project, two: Project, tmp_path: Path) -> None:
    cache = f"dir:{tmp_path}/cache"
    layer(project)
    project.build("--cache-to", f"{cache},chunks=true")
    assert list((tmp_path / "cache/chunks").rglob("*")), "asked for: the first version, too"
    (tmp_path / "without").mkdir()
    (tmp_path / "without/sitecustomize.py").write_text("import sys\nsys.modules['pyfastcdc'] = None\n")
    two.environment["PYTHONPATH"] = str(tmp_path / "without")
    fetched = two.build("--cache-from", cache, "-t", "a:1", "--output", f"type=tar,dest={tmp_path}/one.tar")
    assert fetched.verdicts() == "CC"
    layer(two, changed=1)
    written = two.build("--cache-to", f"dir:{tmp_path}/other,chunks=true")
    assert written.stderr.count("needs the extra `chunks`") == 1
    assert not (tmp_path / "other/chunks").exists(), "whole, as ever"
    layer(two)
    assert "needs the extra" not in two.build("--cache-to", f"dir:{tmp_path}/third").stderr
