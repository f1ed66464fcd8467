"""Twenty-five Dockerfiles on every rung of the sandbox: the tree that root's overlay makes is the tree that each other makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import ordinary, varied

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rootless,
    pytest.mark.xdist_group("rungs"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed (make test-deps)"),
]
ROOT = ("root", "chroot", "runc", "crun")  # rungs that root takes; the others are an ordinary user's
RUNGS = ("chroot", "runc", "crun", "userns", "userns-fuse", "userns-single", "proot")
NAMES = sorted(varied.CASES)
PAIRS = [(rung, name) for name in NAMES for rung in RUNGS]
NEEDS = {"runc": "runc", "crun": "crun", "userns": "newuidmap", "userns-fuse": "fuse-overlayfs", "proot": "proot"}
NO_OWNERS = ("proot",)  # owners that a RUN sets are lost there, and the user is told
ONE_ID = ("userns-single", "proot")  # no supplementary groups there, which `id` tells


class Place:
    """One store for each rung, with the base image in it."""

    def __init__(self, folder: Path, roots: Path) -> None:
        self.folder = folder  # the ordinary user's: all of it is given to him before he runs something
        self._roots = roots
        self._trees: dict[str, varied.Tree] = {}
        self._ready: set[str] = set()

    def lamina(self, rung: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = {"LAMINA_ROOT": str((self._roots if rung in ROOT else self.folder) / f"store-{rung}"), "LAMINA_SANDBOX": rung}
        if rung not in ROOT:
            return ordinary.run(["-m", "lamina", *arguments], self.folder, settings)
        command = [sys.executable, "-m", "lamina", *arguments]
        return subprocess.run(command, cwd=self.folder, env={**os.environ, **settings}, capture_output=True, text=True, check=False)

    def build(self, rung: str, name: str) -> subprocess.CompletedProcess[str]:
        """The case's tree lands in RUNG-NAME.tar."""
        if rung not in self._ready:
            done = self.lamina(rung, "import", "base.tar", "base:1")
            assert done.returncode == 0, done.stderr
            self._ready.add(rung)
        return self.lamina(rung, "build", "-o", f"type=tar,dest={rung}-{name}.tar", str(self.context(name)))

    def context(self, name: str) -> Path:
        folder = self.folder / f"context-{name}"
        if not folder.exists():
            folder.mkdir()
            varied.write(folder, name)
            subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)  # the other user reads it too
        return folder

    def tree(self, rung: str, name: str) -> varied.Tree:
        found = self._trees.get(f"{rung} {name}")
        if found is None:
            done = self.build(rung, name)
            assert done.returncode == 0, done.stderr
            archive = self.folder / f"{rung}-{name}.tar"
            found = self._trees[f"{rung} {name}"] = varied.tree(archive.read_bytes())
            archive.unlink()
        return found


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    ordinary.make_user()
    folder = Path(tempfile.mkdtemp(prefix="lamina-rungs-", dir="/var/tmp"))
    folder.chmod(0o777)
    shutil.move(varied.base_tar(Path(tempfile.mkdtemp(dir=folder))), folder / "base.tar")
    roots = Path(tempfile.mkdtemp(prefix="lamina-rungs-", dir="/var/tmp"))
    yield Place(folder, roots)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(roots, ignore_errors=True)


@pytest.mark.parametrize(("rung", "name"), PAIRS)
def test_the_same_tree(rung: str, name: str, place: Place) -> None:
    if shutil.which(NEEDS.get(rung, "sh")) is None:
        pytest.skip(f"{NEEDS[rung]} is not installed (make test-deps)")
    if rung == "userns-fuse" and not ordinary.has_fuse():
        pytest.skip("/dev/fuse is not there, or not for everybody")
    expected, found = place.tree("root", name), place.tree(rung, name)
    if rung in NO_OWNERS:
        expected, found = without_owners(expected), without_owners(found)
    if rung in ONE_ID:
        expected, found = ({path: facts for path, facts in tree.items() if path != "tmp/id"} for tree in (expected, found))
    differing = {p: (expected.get(p), found.get(p)) for p in sorted(expected.keys() | found.keys()) if expected.get(p) != found.get(p)}
    assert not differing, f"(root, {rung}): {json.dumps(differing, indent=1, default=str)[:3000]}"


def without_owners(tree: varied.Tree) -> varied.Tree:
    return {path: tuple(part for number, part in enumerate(facts) if not _is_owner(number, part)) for path, facts in tree.items()}


def _is_owner(number: int, part: object) -> bool:
    return number in (1, 2) and isinstance(part, tuple) and len(part) == 2 and all(isinstance(item, int) for item in part)
