"""Fixtures of the end-to-end tests: a busybox base made once, a project with a store that has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.project import Project


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = bases.why_not()
    if reason:
        pytest.skip(reason)
    return bases.busybox_tar(tmp_path_factory.mktemp("bases") / "busybox.tar")


@pytest.fixture(scope="session")
def seeded_store(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Path:
    """A store that knows `base:1`; copied for each test."""
    root = tmp_path_factory.mktemp("seed") / "root"
    project = Project(root.parent, root)
    done = project.run("import", str(busybox), "base:1")
    assert done.returncode == 0, done.stderr.decode()
    return root


@pytest.fixture
def project(tmp_path: Path, seeded_store: Path) -> Project:
    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    (tmp_path / "context").mkdir()
    return Project(tmp_path / "context", tmp_path / "store")
