"""Contexts that are no folder, built by docker (BuildKit) and by lamina: names, owners, modes and bytes must be equal."""

from __future__ import annotations

import functools
import gzip
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lamina.testing import dockerd
from lamina.testing.project import Project
from lamina.testing.tars import archive, folder, member, symlink

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or ""),
    pytest.mark.xdist_group("dockerd"),
]
DOCKERFILE = b"FROM scratch\nCOPY . /all\nCOPY --chown=5:6 a /owned\nCOPY part /part\n"
CONTEXT = archive(
    [
        member("Dockerfile", DOCKERFILE),
        member("Other", b"FROM scratch\nCOPY a /only\n"),
        member(".dockerignore", b"left\npart/left\n"),
        member("a", b"a", uid=1234, gid=2345, mode=0o664),
        member("left", b"here all the same"),
        folder("part", mode=0o775),
        member("part/x", b"x", mode=0o4755),
        member("part/left", b"y"),
        symlink("part/link", "x"),
        member("part/hard", kind=tarfile.LNKTYPE, link="part/x", mode=0o4755),
        member("not/named/above", b"z"),
    ]
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[dockerd.Daemon]:
    with dockerd.daemon() as running:
        yield running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An archive, a Dockerfile and a repository behind http."""
    home = tmp_path_factory.mktemp("site")
    (home / "ctx.tar.gz").write_bytes(gzip.compress(CONTEXT))
    (home / "Dockerfile").write_bytes(b"FROM scratch\nLABEL a=b\nCOPY <<eof /x\nhi\neof\n")
    work = home / "work"
    work.mkdir()
    with tarfile.open(fileobj=io.BytesIO(CONTEXT)) as tar:
        tar.extractall(work, filter="data")
    settings = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "x"], ["tag", "v1"]):
        subprocess.run(["git", *settings, *arguments], cwd=work, check=True, env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull})
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(home / "app.git")], check=True, capture_output=True)
    subprocess.run(["git", "update-server-info"], cwd=home / "app.git", check=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(home)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def tree(data: bytes) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for item in tar:
            body = tar.extractfile(item).read() if item.isreg() else b""  # type: ignore[union-attr]  # a regular file
            if item.islnk():  # which name of a file is its first is no matter
                target = tar.extractfile(item)
                body = target.read() if target is not None else b""
            kind = "f" if item.isreg() or item.islnk() else "l" if item.issym() else "d"
            name = item.name.strip("./")
            if name:
                found[name] = (kind, item.mode, item.uid, item.gid, item.linkname if item.issym() else "", body)
    return found


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("-",), CONTEXT),
        (("-",), gzip.compress(CONTEXT)),
        (("-f", "Other", "-"), CONTEXT),
        (("-",), b"FROM scratch\nLABEL a=b\nWORKDIR /w\n"),
        (("SITE/ctx.tar.gz",), b""),
        (("-f", "Other", "SITE/ctx.tar.gz"), b""),
        (("SITE/app.git#main",), b""),  # docker 20.10 knows neither folders nor other default branches than master
        (("SITE/app.git#v1",), b""),
    ],
    ids=["tar", "gzip", "file", "dockerfile", "http", "http-file", "git", "git-tag"],
)
def test_equal(daemon: dockerd.Daemon, site: str, tmp_path: Path, arguments: tuple[str, ...], stdin: bytes) -> None:
    words = [word.replace("SITE", site) for word in arguments]
    theirs, ours = tmp_path / "theirs.tar", tmp_path / "ours.tar"
    daemon.docker("build", "--network=host", "-o", f"type=tar,dest={theirs}", *words, stdin=stdin)
    project = Project(tmp_path, tmp_path / "store")
    done = project.run("build", "-o", f"type=tar,dest={ours}", *words, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    assert tree(ours.read_bytes()) == tree(theirs.read_bytes())
