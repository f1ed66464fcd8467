"""The short way of `lamina build`: taken when nothing has changed, never when something has, and nobody can tell but by the clock."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lamina.cli import unchanged
from lamina.testing.project import Project

pytestmark = pytest.mark.xdist_group("unchanged")  # the projects are made once

DOCKERFILE = "FROM base:1\nARG V=1\nCOPY src /src\nRUN cat /src/a /src/deep/b > /out && sleep 0.2\nRUN echo $V > /v\n"


def write(folder: Path) -> None:
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "src" / "a").write_text("a\n")
    (folder / "src" / "deep" / "b").write_text("b\n")
    (folder / "src" / "link").symlink_to("a")


def nothing(project: Project, folder: Path) -> None:
    pass


def other_byte(project: Project, folder: Path) -> None:
    (folder / "src" / "deep" / "b").write_text("c\n")


def other_byte_with_old_times(project: Project, folder: Path) -> None:
    file = folder / "src" / "deep" / "b"
    before = file.stat()
    file.write_text("c\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_file(project: Project, folder: Path) -> None:
    (folder / "src" / "deep" / "new").write_text("")


def file_gone(project: Project, folder: Path) -> None:
    (folder / "src" / "a").unlink()
    (folder / "src" / "link").unlink()
    (folder / "src" / "a").write_text("a\n")


def executable(project: Project, folder: Path) -> None:
    (folder / "src" / "a").chmod(0o755)


def other_link(project: Project, folder: Path) -> None:
    (folder / "src" / "link").unlink()
    (folder / "src" / "link").symlink_to("deep/b")


def folder_is_a_link(project: Project, folder: Path) -> None:
    (folder / "src").rename(folder / "elsewhere")
    (folder / "src").symlink_to("elsewhere")


def dockerfile(project: Project, folder: Path) -> None:
    (folder / "Dockerfile").write_text(DOCKERFILE + "RUN true\n")


def ignore_file(project: Project, folder: Path) -> None:
    (folder / "Dockerfile.dockerignore").write_text("src/deep/x\n")


def image_untagged(project: Project, folder: Path) -> None:
    assert project.run("rmi", folder.name).returncode == 0


def tag_moved(project: Project, folder: Path) -> None:
    assert project.run("tag", "base:1", folder.name).returncode == 0


def forgotten(project: Project, folder: Path) -> None:
    assert project.run("cache", "forget", "RUN cat", cwd=folder).returncode == 0


def layer_gone(project: Project, folder: Path) -> None:
    shutil.rmtree(layers_of(project, folder)[-1])


def blob_gone(project: Project, folder: Path) -> None:
    image = short(project).stdout.strip()
    (project.root / "blobs" / image.replace(":", "/")).unlink()


def receipt_damaged(project: Project, folder: Path) -> None:
    for path in (project.root / "context").glob("receipt-*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def another_start_of_the_machine(project: Project, folder: Path) -> None:
    for path in (project.root / "context").glob("receipt-*"):
        receipt = unchanged.load(path.read_bytes())
        assert receipt is not None
        path.write_bytes(unchanged.dump({**receipt, "boot": "another"}))


def layers_of(project: Project, folder: Path) -> list[Path]:
    with closing(sqlite3.connect(project.root / "state.db")) as database:
        rows = database.execute("SELECT id FROM layers WHERE id LIKE 'diff:%' ORDER BY created").fetchall()
    return [project.root / "layers" / row[0].replace(":", "-", 1) for row in rows]


CHANGES: list[Callable[[Project, Path], None]] = [
    other_byte, other_byte_with_old_times, another_file, file_gone, executable, other_link, folder_is_a_link, dockerfile, ignore_file,
    image_untagged, tag_moved, forgotten, layer_gone, blob_gone, receipt_damaged, another_start_of_the_machine,
]  # fmt: skip


def command(folder: Path, *options: str) -> list[str]:
    return ["build", "--progress=plain", "-t", folder.name, *options, str(folder)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, seeded_store: Path) -> dict[str, Project]:
    """One project with a store of its own for each change, built twice: the second build leaves a receipt, as its files are old enough."""
    projects: dict[str, Project] = {}
    top = tmp_path_factory.mktemp("unchanged")
    for change in [nothing, *CHANGES]:
        name = change.__name__
        shutil.copytree(seeded_store, top / name / "store", symlinks=True)
        folder = top / name / name.replace("_", "-")
        folder.mkdir()
        write(folder)
        projects[name] = Project(folder, top / name / "store", {"HOME": "/h"})
    for project in projects.values():
        done = project.run(*command(project.folder))
        assert done.returncode == 0, done.stderr.decode()
    time.sleep(2.1)
    for project in projects.values():
        done = project.run(*command(project.folder))
        assert done.returncode == 0, done.stderr.decode()
        assert list((project.root / "context").glob("receipt-*")), "no receipt was written"
    return projects


def short(project: Project, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Asks only the short way, in a process without a terminal; exit code 99 when it leaves the build to the long one."""
    code = "import os, sys; from lamina.cli.unchanged import answer; found = answer(sys.argv[1:], os.environ); sys.exit(99 if found is None else found)"
    return subprocess.run(
        [sys.executable, "-c", code, *command(project.folder, *options)],
        env={"PATH": os.environ["PATH"], "HOME": "/h", "LAMINA_ROOT": str(project.root), **environment},
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )


def without_times(text: str) -> str:
    return re.sub(r"\d+ s ago|, [\d.]+ s in all", "", text)


def test_the_short_way_says_what_the_long_way_says(prepared: dict[str, Project]) -> None:
    project = prepared["nothing"]
    found = short(project)
    assert found.returncode == 0, found.stderr
    for path in (project.root / "context").glob("receipt-*"):
        path.rename(path.with_suffix(".away"))
    built = project.run(*command(project.folder))
    assert built.returncode == 0
    assert found.stdout == built.stdout.decode()
    assert without_times(found.stderr) == without_times(built.stderr.decode())
    assert "3 cached" in found.stderr


def test_why_knows_of_it(prepared: dict[str, Project]) -> None:
    project = prepared["nothing"]
    before = project.run("why", "--json").stdout
    assert project.run(*command(project.folder)).returncode == 0
    assert short(project).returncode == 0
    after = project.run("why", project.folder.name).stdout.decode()
    assert "same inputs; made" in after
    assert project.run("why", "--json").stdout != before


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_has_changed_is_built(prepared: dict[str, Project], change: Callable[[Project, Path], None]) -> None:
    project = prepared[change.__name__]
    assert short(project).returncode == 0, "nothing has changed yet"
    change(project, project.folder)
    found = short(project)
    assert (found.returncode, found.stdout, found.stderr) == (99, "", "")
    built = project.run(*command(project.folder))
    assert built.returncode == 0, built.stderr.decode()


def test_another_question_is_another_build(prepared: dict[str, Project]) -> None:
    project = prepared["nothing"]
    assert project.run(*command(project.folder)).returncode == 0
    assert short(project).returncode == 0
    assert short(project, "--build-arg", "V=2").returncode == 99
    assert short(project, LAMINA_CUT_OFF="off").returncode == 99
    assert short(project, http_proxy="http://127.0.0.1:1").returncode == 99


@pytest.mark.parametrize(
    "options",
    [
        ("--no-cache",), ("--refresh", "RUN cat"), ("--pull",), ("--max-age", "0=7d"), ("--build-arg", "V"), ("--progress", "json"),
        ("--iidfile", "/dev/null"), ("--output", "type=tar,dest=/dev/null"), ("--secret", "id=x,src=Dockerfile"),
    ],
    ids=lambda options: options[0],
)  # fmt: skip
def test_what_looks_at_more_leaves_no_receipt(prepared: dict[str, Project], options: tuple[str, ...]) -> None:
    project = prepared["nothing"]
    for _ in range(2):
        done = project.run(*command(project.folder, *options))
        assert done.returncode == 0, done.stderr.decode()
    assert short(project, *options).returncode == 99


def test_a_build_argument_is_not_in_the_receipt(prepared: dict[str, Project]) -> None:
    project = prepared["nothing"]
    for _ in range(2):
        assert project.run(*command(project.folder, "--build-arg", "V=hunter2-value")).returncode == 0
    receipts = list((project.root / "context").glob("receipt-*"))
    assert receipts
    assert not [path for path in receipts if b"hunter2-value" in path.read_bytes()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in receipts)
