"""The same Dockerfile and context, built by docker (BuildKit) and by lamina: trees and configs must be equal.

What is compared: type, mode, uid, gid, size, content, link target, device, xattrs of every path; mtimes are not. Documented
differences are in docs/differences.md.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing import dockerd

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or ""),
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed (make test-deps)"),
    pytest.mark.xdist_group("dockerd"),
]

CASES: dict[str, str] = {
    "copy-forms": """
        FROM base:1
        COPY a.txt /one/a.txt
        COPY a.txt b.txt /two/
        COPY tree /three
        COPY tree/ /three/again/
        COPY --chown=7:8 --chmod=640 a.txt /four
        COPY --chown=worker tree /five
        COPY *.txt /six/
        COPY link /seven
        COPY tree/sub/../x.sh /eight/
        """,
    "workdir-user": """
        FROM base:1
        WORKDIR /w
        RUN touch made-by-root
        USER worker
        WORKDIR deeper/still
        RUN echo hi > /tmp/h && id > /tmp/id
        COPY a.txt .
        USER 12:34
        WORKDIR /numbered
        RUN id -u > /tmp/n; id -g >> /tmp/n
        """,
    "multi-stage": """
        ARG TOP=3
        FROM base:1 AS build
        ARG TOP
        ARG MORE=x
        RUN mkdir -p /out/d && echo "$TOP $MORE" > /out/f && ln -s f /out/l && ln /out/f /out/hard && chmod 4755 /out/f && chown 3:4 /out/d
        FROM scratch AS empty
        COPY --from=build /out /o
        FROM base:1
        COPY --from=build /out/ /x/
        COPY --from=empty /o/f /y
        COPY --from=0 --chown=9 /out/d /z
        """,
    "run-deletes": """
        FROM base:1
        RUN mkdir -p /d/e && echo 1 > /d/1 && echo 2 > /d/2 && echo 3 > /d/e/3
        RUN rm /d/1 && rm -r /d/e && mkdir /d/e && echo new > /d/e/new && mv /d/2 /d/3 && rm -r /opt
        RUN mkfifo /d/fifo && ln -s /nowhere /d/broken && chmod 1777 /d && touch -d @0 /d/3
        RUN true
        """,
    "env-arg-config": """
        FROM base:1
        ARG V=1
        ENV A=$V B="two words" C=${V:-x}${NOPE:+y}
        LABEL one=1 "two words"="x y" v=$V
        EXPOSE 80 443/tcp 53/udp
        VOLUME /data /more
        STOPSIGNAL SIGUSR1
        HEALTHCHECK --interval=5s --retries=3 CMD test -f /x
        SHELL ["/bin/sh", "-ec"]
        RUN env | grep -v -e HOSTNAME -e SHLVL | sort > /env
        CMD ["sh", "-c", "echo $A"]
        ENTRYPOINT exec top
        ONBUILD RUN echo hello
        """,
    "shell-and-escape": """
        FROM base:1
        SHELL ["/bin/busybox", "ash", "-ec"]
        RUN echo one \\
            # a comment in the middle
            two > /one && printf '%s' "$HOME" > /two
        SHELL ["/bin/sh", "-c"]
        RUN ["sh", "-c", "echo json > /three"]
        ENV PATH=/opt/bin:$PATH
        RUN echo $PATH > /path; ln -s /bin/busybox /opt/b; chmod 711 /opt
        """,
    "add-archives": """
        FROM base:1
        ADD pack.tar.gz /unpacked/
        ADD pack.tar /also
        COPY pack.tar /kept/
        ADD a.txt /plain/
        ADD tree /tree/
        """,
    "mounts": """
        FROM base:1 AS other
        RUN mkdir /src && echo s > /src/s
        FROM base:1
        RUN --mount=type=bind,target=/ctx cp -r /ctx/tree /copied && cat /ctx/a.txt > /cat
        RUN --mount=type=bind,from=other,source=/src,target=/from,rw echo x > /from/x && cat /from/s > /s
        RUN --mount=type=tmpfs,target=/t touch /t/gone
        RUN --mount=type=cache,target=/var/c echo c > /var/c/c
        RUN ls -R / -1 2>/dev/null | grep -c gone > /count || true
        """,
    "over-existing": """
        FROM base:1
        RUN mkdir -m 700 /there && echo old > /there/a.txt && ln -s /there /alias && chown 5:6 /there
        COPY a.txt /there/
        COPY tree /there
        COPY b.txt /alias/
        COPY a.txt /etc/a.txt
        RUN echo more >> /there/a.txt
        """,
    "ignored": """
        FROM base:1
        COPY . /all
        COPY tree /tree
        """,
}


# docker leaves the empty mount points of RUN --mount in the layer, lamina does not (docs/differences.md)
MOUNT_POINTS = ("ctx", "from", "t", "var/c")
FLAGS = re.compile(r" --(chown|chmod)=\S+")


def write_context(folder: Path) -> None:
    (folder / "tree" / "sub").mkdir(parents=True)
    (folder / "tree" / "empty").mkdir()
    (folder / "a.txt").write_text("alpha\n")
    (folder / "b.txt").write_text("beta\n")
    (folder / "tree" / "x.sh").write_text("#!/bin/sh\n")
    (folder / "tree" / "x.sh").chmod(0o755)
    (folder / "tree" / "sub" / "deep").write_bytes(b"\0" * 5000)
    (folder / "tree" / "sub" / "private").write_text("p")
    (folder / "tree" / "sub" / "private").chmod(0o600)
    (folder / "tree" / "ln").symlink_to("sub/deep")
    (folder / "tree" / "up").symlink_to("../a.txt")
    (folder / "link").symlink_to("tree/x.sh")
    (folder / "secret.key").write_text("no\n")
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "m").write_text("m")
    (folder / "node_modules" / "keep").write_text("k")
    (folder / ".dockerignore").write_text("*.key\nnode_modules\n!node_modules/keep\n.dockerignore\nDockerfile\n")
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        for path, mode, data in (("p/one", 0o644, b"1"), ("p/two", 0o4755, b"22")):
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.uid, info.gid = len(data), mode, 11, 12
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("p/link")
        link.type, link.linkname = tarfile.SYMTYPE, "one"
        archive.addfile(link)
    (folder / "pack.tar").write_bytes(body.getvalue())
    (folder / "pack.tar.gz").write_bytes(gzip.compress(body.getvalue(), mtime=0))


def base_tar(folder: Path) -> Path:
    """A root file system that both builders import: busybox, its links, two users."""
    root = folder / "root"
    for name in ("bin", "etc", "tmp", "opt/pkg", "root", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "opt/pkg/file").write_text("opt\n")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1001::/home/worker:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nworkers:x:1001:worker\n")
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    target = folder / "base.tar"
    subprocess.run(["tar", "-C", str(root), "--numeric-owner", "--owner=0", "--group=0", "-cf", str(target), "."], check=True)
    return target


def tree(tar: bytes) -> dict[str, tuple[Any, ...]]:
    """path -> everything that is compared."""
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            path = member.name.strip("/").removeprefix("./") or "."
            if path in (".", "dev", "proc", "sys", "etc/hosts", "etc/resolv.conf", "etc/hostname") or path.startswith("dev/"):
                continue
            mode = member.mode & 0o7777
            ids = (member.uid, member.gid)
            extra = tuple(sorted((k, v) for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr")))
            if member.isreg() or member.islnk():
                data = archive.extractfile(member)
                assert data is not None
                body = data.read()
                found[path] = ("file", mode, ids, len(body), hashlib.sha256(body).hexdigest(), extra)
            elif member.issym():
                found[path] = ("link", ids, member.linkname)
            else:
                found[path] = (member.type, mode, ids, extra)
    return found


@pytest.fixture(scope="module")
def docker() -> Iterator[dockerd.Daemon]:
    with dockerd.daemon() as running:
        yield running


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, docker: dockerd.Daemon) -> Path:
    tar = base_tar(tmp_path_factory.mktemp("base"))
    docker.docker("import", str(tar), "base:1")
    return tar


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    root = tmp_path_factory.mktemp("store") / "root"
    lamina(root, "import", str(base), "base:1")
    return root


def lamina(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "lamina", *arguments], env={**os.environ, "LAMINA_ROOT": str(root)}, capture_output=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"lamina {' '.join(arguments)} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
    return done


# docker 20.10's own defaults that a current BuildKit does not write, and empty values of Go's encoder
def config(document: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in document.items() if v not in (None, "", False, [], {})}
    for name in ("Hostname", "Domainname", "Image", "ArgsEscaped"):
        kept.pop(name, None)
    return kept


@pytest.mark.parametrize("name", sorted(CASES))
def test_same_tree_and_config(name: str, tmp_path: Path, docker: dockerd.Daemon, store: Path) -> None:
    write_context(tmp_path)
    (tmp_path / "Dockerfile").write_text(textwrap.dedent(CASES[name]).lstrip())
    tag = f"case-{name}:1"
    docker.docker("build", "--network=host", "-t", tag, str(tmp_path))
    docker_tar = docker.docker("build", "--network=host", "-o", "-", str(tmp_path)).stdout
    lamina(store, "build", "--network=host", "-t", tag, str(tmp_path))
    lamina_tar = lamina(store, "build", "--network=host", "-o", "-", str(tmp_path)).stdout
    theirs, ours = tree(docker_tar), tree(lamina_tar)
    for left in MOUNT_POINTS:
        theirs.pop(left, None)
    differing = {p: (theirs.get(p), ours.get(p)) for p in sorted(theirs.keys() | ours.keys()) if theirs.get(p) != ours.get(p)}
    assert not differing, f"(docker, lamina): {json.dumps(differing, indent=1, default=str)[:3000]}"
    inspected = json.loads(docker.docker("image", "inspect", tag).stdout)[0]["Config"]
    own = json.loads(lamina(store, "inspect", tag).stdout)[0]["Config"]
    assert config(own) == config(inspected)
    their_history = docker.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", tag).stdout.decode().splitlines()
    our_history = lamina(store, "history", "--no-trunc", "--format", "{{.CreatedBy}}", tag).stdout.decode().splitlines()
    # the last line is the imported base's; 20.10 does not yet write --chown and --chmod, and HEALTHCHECK and EXPOSE in another form
    ours_, theirs_ = (
        [FLAGS.sub("", line) for line in lines[:-1] if not line.startswith(("HEALTHCHECK", "EXPOSE"))]
        for lines in (our_history, their_history)
    )
    assert ours_ == theirs_
