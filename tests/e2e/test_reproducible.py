"""The same Dockerfile in two places that differ in all that must not matter gives one image, byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from lamina.testing import bases, ordinary
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN steps are run as root here"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

FILES = {
    "a.txt": "a\n",
    "bin/run.sh": "#!/bin/sh\necho hi\n",
    "src/one": "1\n",
    "src/deep/two": "2\n",
    "docs/x": "x\n",
    ".dockerignore": "docs\n",
}
DOCKERFILES = {
    "copy": 'FROM base:1\nCOPY . /app\nCMD ["/app/bin/run.sh"]\n',
    "run": "FROM base:1\nRUN mkdir -p /d && echo x > /d/x && ln -s x /d/l && ln /d/x /d/h\n",
    "removed": "FROM base:1\nRUN rm -r /home && mkdir /home\nRUN rm /etc/group\n",
    "owners": "FROM base:1\nCOPY --chown=7:8 --chmod=640 a.txt /o/\nUSER worker\nRUN touch /tmp/mine\n",
    "stages": (
        "FROM base:1 AS one\nCOPY src /src\nRUN cat /src/one > /made\n"
        "FROM base:1 AS two\nRUN echo two > /two\n"
        "FROM base:1\nCOPY --from=one /made /src /out/\nCOPY --from=two /two /out/\nRUN cat /out/made /out/two > /all\n"
    ),
    "linked": "FROM base:1\nCOPY --link src /l\nRUN echo x > /x\nCOPY --link a.txt /l2/\n",
    "heredoc": "FROM base:1\nCOPY <<eof /etc/app.conf\nk=v\neof\nRUN <<eof\nset -e\nmkdir /h\necho y > /h/y\neof\nWORKDIR /w/deep\n",
    "mounts": "FROM base:1\nRUN --mount=type=bind,target=/ctx --mount=type=cache,target=/c cp -r /ctx/src /copied && touch /c/x\n",
    "epoch": "FROM base:1\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /epoch && date > /dev/null\nLABEL a=b\nEXPOSE 80\n",
    "scratch": "FROM base:1 AS build\nRUN echo bin > /bin/app && mkfifo /pipe && chmod 4755 /bin/app\nFROM scratch\nCOPY --from=build /bin/app /pipe /\n",
}


def checkout(folder: Path, umask: int, age: float) -> None:
    """The context as a clone under this umask leaves it, dated."""
    before = os.umask(umask)
    try:
        for name, text in FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod((0o777 if name.startswith("bin/") else 0o666) & ~umask)
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (age, age))
    finally:
        os.umask(before)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_two_machines_one_image(name: str, tmp_path: Path, seeded_store: Path) -> None:
    found = []
    for place, umask, age, jobs, before in (("one", 0o022, 1e9, "1", ()), ("other/folder", 0o002, 1.7e9, "8", ("COPY", "RUN"))):
        home = tmp_path / place
        context = home / "context"
        context.mkdir(parents=True)
        checkout(context, umask, age)
        shutil.copytree(seeded_store, home / "store", symlinks=True)
        project = Project(context, home / "store", {"SOURCE_DATE_EPOCH": "1600000000"})
        project.dockerfile(DOCKERFILES[name])
        if before:  # a store with a past: these layers are there already, with times of their own
            plain = Project(context, home / "store")
            plain.build("-q")
        mask = os.umask(umask)
        try:
            project.build(
                "-t", "r:1", "--jobs", jobs, "--output", f"type=oci,dest={home / 'r.tar'}", "--iidfile", str(home / "id"), "--load"
            )
        finally:
            os.umask(mask)
        found.append(((home / "id").read_text(), digest(home / "r.tar")))
        again = project.build("-t", "r:1", "--iidfile", str(home / "again"))
        assert "x" not in again.verdicts()
        assert (home / "again").read_text() == found[-1][0]
        assert project.run("check").returncode == 0
    assert found[0] == found[1]


@pytest.mark.rootless
@pytest.mark.xdist_group("rootless")
@pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or "")
def test_root_and_an_ordinary_user_make_one_image(tmp_path: Path, busybox: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="lamina-same-", dir="/var/tmp"))
    try:
        home.chmod(0o755)
        ordinary.make_user()
        shutil.copy(busybox, home / "base.tar")
        checkout(home / "context", 0o022, 1e9)
        project = Project(home / "context", tmp_path / "store")
        project.dockerfile(DOCKERFILES["stages"])
        assert project.run("import", str(home / "base.tar"), "base:1").returncode == 0
        project.build("--reproducible", "--iidfile", str(tmp_path / "id"))
        settings = {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": "userns-single"}
        done = ordinary.run(["-m", "lamina", "import", str(home / "base.tar"), "base:1"], home, settings)
        assert done.returncode == 0, done.stderr
        done = ordinary.run(["-m", "lamina", "build", "--reproducible", "-q", str(home / "context")], home, settings)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == (tmp_path / "id").read_text()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_all_times_are_the_epoch(project: Project, tmp_path: Path) -> None:
    checkout(project.folder, 0o022, 1.7e9)
    project.dockerfile(DOCKERFILES["stages"])
    out = tmp_path / "image.tar"
    project.build("--reproducible", "--output", f"type=docker,dest={out}")
    with tarfile.open(out) as image:
        manifest = json.load(image.extractfile("manifest.json"))[0]  # type: ignore[arg-type]  # it is a file
        config = json.load(image.extractfile(manifest["Config"]))  # type: ignore[arg-type]  # as above
        assert config["created"] == "1970-01-01T00:00:00Z"
        assert all(entry["created"] == "1970-01-01T00:00:00Z" for entry in config["history"][-3:])
        made = [image.extractfile(layer).read() for layer in manifest["Layers"][1:]]  # type: ignore[union-attr]  # as above
    for layer in made:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            assert {item.mtime for item in tar} == {0}


def test_the_result_can_be_built_upon_and_survives_a_collection(project: Project) -> None:
    checkout(project.folder, 0o022, 1.7e9)
    project.dockerfile(DOCKERFILES["copy"])
    project.build("--reproducible", "-t", "first:1")
    assert project.run("cache", "prune", "--all").returncode == 0
    project.dockerfile("FROM first:1\nRUN cat /app/a.txt > /again\n")
    project.build("-t", "second:1")
    done = project.run("save", "second:1", "-o", str(project.root.parent / "s.tar"))
    assert done.returncode == 0, done.stderr
    assert project.run("check").returncode == 0


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "9" * 30])
def test_a_bad_epoch_is_one_line(project: Project, text: str) -> None:
    project.dockerfile("FROM base:1\n")
    done = project.run("build", "--build-arg", f"SOURCE_DATE_EPOCH={text}", ".")
    assert done.returncode == 2
    assert b"is not a number of seconds" in done.stderr
