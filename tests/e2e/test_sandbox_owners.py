"""A build with one id gives the image that a build by root gives: every owner, every digest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, ordinary

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

# GNU's tools beside busybox's. Times are set: they are part of a layer's tar.
DOCKERFILE = """
FROM base:1
COPY owned.tar /
RUN mkdir -p /d/e && touch /d/a /d/e/b && ln -s a /d/l && mkfifo /d/p && /usr/bin/chown -R 1000:1000 /d \
 && /usr/bin/chown -h 5:6 /d/l && mv /d/l /d/m && touch -h -d @1 /d/m && /usr/bin/chown :99 /d/a && chown 70000:80000 /d/e/b && find /d -exec touch -h -d @1 {} +
RUN mkdir /i && /usr/bin/install -o 33 -g 44 -m 640 /etc/passwd /i/inst && /usr/bin/install -d -o 2 -g 3 -m 2755 /i/dir && touch /i/dir/inherits \
 && cp /bin/busybox /i/suid && chmod 4755 /i/suid && chown 9:9 /i/suid && find /i -exec touch -h -d @2 {} +
RUN mkdir /un && /usr/bin/tar -xpf /owned.tar -C /un --numeric-owner && mknod /un/null c 1 3 && chown 8:9 /un/null && find /un -exec touch -h -d @3 {} +
USER worker
RUN touch /home/worker/f && mkdir /home/worker/g && ln -s f /home/worker/l && find /home/worker -exec touch -h -d @4 {} +
USER root
RUN mv /un/null /un/zero && mv /un/member /d/moved && rm -r /d/e && /usr/bin/chown -R :7 /d && find /d /un -exec touch -h -d @5 {} +
RUN touch -h -d @6 /d/m && chmod 700 /home/worker && touch -d @6 /home /home/worker /d
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with ordinary.home() as folder:
        yield folder


def build(home: Path, rung: str) -> tuple[list[str], dict[str, tuple[bytes, int, int, int, str, int, int]]]:
    """diffIDs of the image's layers, and what its file system holds."""
    settings = {"LAMINA_ROOT": str(home / f"store-{rung}"), "LAMINA_SANDBOX": rung}
    commands = (
        ["import", "base.tar", "base:1"],
        ["build", "--progress=plain", "-t", "app:1", "-o", f"type=tar,dest={rung}.tar", "context"],
        ["build", "--progress=plain", "-t", "app:1", "context"],
        ["inspect", "app:1"],
    )
    said = ""
    for arguments in commands:
        if rung == "root":
            done = subprocess.run(
                [sys.executable, "-m", "lamina", *arguments],
                cwd=home,
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                check=False,
            )
        else:
            done = ordinary.run(["-m", "lamina", *arguments], home, settings)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    document = json.loads(said)
    document = document[0] if isinstance(document, list) else document
    with tarfile.open(home / f"{rung}.tar") as archive:
        members = {m.name: (m.type, m.mode, m.uid, m.gid, m.linkname, m.devmajor, m.devminor) for m in archive}
    return document["RootFS"]["Layers"], members


def test_layers_equal_those_of_root(home: Path) -> None:
    tools = ["chown", "tar", "install", "find", "touch"]
    bases.host_program_tar(home / "base.tar", tools)
    context = home / "context"
    context.mkdir()
    with tarfile.open(context / "owned.tar", "w") as archive:
        for name, kind, uid in (("folder", tarfile.DIRTYPE, 21), ("folder/f", tarfile.REGTYPE, 22), ("member", tarfile.SYMTYPE, 23)):
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.gid, info.mode, info.linkname = kind, uid, uid + 100, 0o755, "x" if kind == tarfile.SYMTYPE else ""
            archive.addfile(info)
    os.utime(context / "owned.tar", (1, 1))
    (context / "Dockerfile").write_text(DOCKERFILE.lstrip())
    wanted, members = build(home, "root")
    found, again = build(home, "userns-single")
    differences = {name: (members.get(name), again.get(name)) for name in members.keys() | again if members.get(name) != again.get(name)}
    assert not differences
    assert members["d/moved"][2:4] == (23, 7)
    assert members["home/worker/l"][2:4] == (1000, 1001)
    assert found == wanted
