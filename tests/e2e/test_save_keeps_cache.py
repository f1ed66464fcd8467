"""`docker save $(docker images -aq)`, `load` on a clean machine, build: the recipe of a thousand CI files, which on today's Docker misses
without a word. Here it hits, stages that the image only copied from included."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from lamina.testing import dockerd
from lamina.testing.project import Project

DOCKERFILE = """
FROM base:1 AS tool
COPY tool.txt /in
RUN tr a-z A-Z < /in > /tool
FROM base:1
WORKDIR /app
COPY . .
COPY --from=tool /tool /app/tool
RUN cat tool > made
"""


@pytest.fixture
def built(project: Project) -> Project:
    project.dockerfile(DOCKERFILE)
    project.write({"tool.txt": "tool\n", "main.txt": "main\n"})
    project.build("-t", "app:1")
    return project


def elsewhere(project: Project, tmp_path: Path, archive: Path, *options: str) -> tuple[Project, str]:
    other = Project(project.folder, tmp_path / "elsewhere")
    done = other.run("load", "-i", str(archive), *options)
    assert done.returncode == 0, done.stderr.decode()
    return other, done.stdout.decode() + done.stderr.decode()


def ids(project: Project) -> list[str]:
    return project.run("images", "-q").stdout.decode().split()


def test_all_steps_hit_after_save_and_load_by_id(built: Project, tmp_path: Path) -> None:
    assert built.run("save", "-o", str(tmp_path / "a.tar"), *ids(built)).returncode == 0
    other, said = elsewhere(built, tmp_path, tmp_path / "a.tar")
    assert "Loaded cache: 6 steps" in said
    outcome = other.build("-t", "app:1")
    assert outcome.verdicts() == "CCCCCC", outcome.rows
    assert outcome.stdout == built.build("-t", "app:1").stdout, "the same image"
    built.write({"main.txt": "changed\n"})
    assert other.build().row("COPY . .").message == "main.txt changed in build context"


def test_by_name_an_archive_has_the_image_only(built: Project, tmp_path: Path) -> None:
    """Who ships app:1 does not ship the build stages with it."""
    assert built.run("save", "-o", str(tmp_path / "a.tar"), "app:1", "base:1").returncode == 0
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert "lamina/records.json" not in archive.getnames()
    other, said = elsewhere(built, tmp_path, tmp_path / "a.tar")
    assert "cache" not in said
    outcome = other.build()
    assert outcome.verdicts() == "xxxxxC"
    assert outcome.row("RUN cat").code == "adopted", "the image itself has this layer; of the other stage nothing is here"


def test_the_cache_can_be_left(built: Project, tmp_path: Path) -> None:
    built.run("save", "-o", str(tmp_path / "a.tar"), *ids(built))
    other, _ = elsewhere(built, tmp_path, tmp_path / "a.tar", "--images-only")
    assert "x" in other.build().verdicts()


def rewritten(archive: Path, target: Path, *, records: list[dict[str, object]]) -> None:
    with tarfile.open(archive) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = old.extractfile(member)
            raw = data.read() if data is not None else b""
            if member.name == "lamina/records.json":
                raw = json.dumps({"schema": 1, "records": records}).encode()
                member.size = len(raw)
            new.addfile(member, io.BytesIO(raw))


def test_a_layer_under_a_false_name_is_not_believed(built: Project, tmp_path: Path) -> None:
    built.run("save", "-o", str(tmp_path / "a.tar"), *ids(built))
    with tarfile.open(tmp_path / "a.tar") as archive:
        entry = archive.extractfile("lamina/records.json")
        assert entry is not None
        records = json.load(entry)["records"]
    for record in records:
        for layer in record["layers"]:
            if layer["id"].startswith("diff:"):
                layer["id"] = "diff:" + "0" * 64
    rewritten(tmp_path / "a.tar", tmp_path / "false.tar", records=records)
    other, said = elsewhere(built, tmp_path, tmp_path / "false.tar")
    assert "a cached step was not taken over" in said
    assert "x" in other.build().verdicts()


@pytest.mark.parametrize("entry", [b"", b"{", b'{"schema": 9, "records": []}', b'{"schema": 1, "records": [{"key": 1}]}', b"[" * 100_000])
def test_a_cache_that_cannot_be_read_is_as_good_as_none(built: Project, tmp_path: Path, entry: bytes) -> None:
    built.run("save", "-o", str(tmp_path / "a.tar"), *ids(built))
    with tarfile.open(tmp_path / "a.tar") as old, tarfile.open(tmp_path / "b.tar", "w") as new:
        for member in old:
            data = old.extractfile(member)
            raw = data.read() if data is not None else b""
            if member.name == "lamina/records.json":
                raw, member.size = entry, len(entry)
            new.addfile(member, io.BytesIO(raw))
    _, said = elsewhere(built, tmp_path, tmp_path / "b.tar")
    assert "Loaded image: app:1" in said
    assert "Loaded cache" not in said


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or "")
def test_docker_loads_an_archive_with_a_cache(built: Project, tmp_path: Path) -> None:
    built.run("save", "-o", str(tmp_path / "a.tar"), *ids(built))
    with dockerd.daemon() as daemon:
        assert "app:1" in daemon.docker("load", "-i", str(tmp_path / "a.tar")).stdout.decode()
        assert daemon.docker("run", "--rm", "--network=none", "app:1", "cat", "/app/made").stdout == b"TOOL\n"


def test_skopeo_reads_an_archive_with_a_cache(built: Project, tmp_path: Path) -> None:
    import shutil

    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (make test-deps)")
    image = built.build("-t", "app:1").stdout.strip()
    built.run("save", "-o", str(tmp_path / "a.tar"), image)
    done = subprocess.run(["skopeo", "inspect", f"docker-archive:{tmp_path}/a.tar"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
