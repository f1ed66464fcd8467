"""The same Dockerfile and context, built by docker (BuildKit) and by lamina: trees and configs must be equal.

What is compared: type, mode, uid, gid, size, content, link target, device, xattrs of every path; mtimes are not. Documented
differences are in docs/differences.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing import dockerd, varied

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or ""),
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed (make test-deps)"),
    pytest.mark.xdist_group("dockerd"),
]

# docker leaves the empty mount points of RUN --mount in the layer, lamina does not (docs/differences.md)
MOUNT_POINTS = ("ctx", "from", "t", "var/c")
FLAGS = re.compile(r" --(chown|chmod)=\S+")


@pytest.fixture(scope="module")
def docker() -> Iterator[dockerd.Daemon]:
    with dockerd.daemon() as running:
        yield running


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, docker: dockerd.Daemon) -> Path:
    tar = varied.base_tar(tmp_path_factory.mktemp("base"))
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


@pytest.mark.parametrize("name", sorted(varied.CASES))
def test_same_tree_and_config(name: str, tmp_path: Path, docker: dockerd.Daemon, store: Path) -> None:
    varied.write(tmp_path, name)
    tag = f"case-{name}:1"
    docker.docker("build", "--network=host", "-t", tag, str(tmp_path))
    docker_tar = docker.docker("build", "--network=host", "-o", "-", str(tmp_path)).stdout
    lamina(store, "build", "--network=host", "-t", tag, str(tmp_path))
    lamina_tar = lamina(store, "build", "--network=host", "-o", "-", str(tmp_path)).stdout
    theirs, ours = varied.tree(docker_tar), varied.tree(lamina_tar)
    for left in MOUNT_POINTS:
        theirs.pop(left, None)
    differing = {p: (theirs.get(p), ours.get(p)) for p in sorted(theirs.keys() | ours.keys()) if theirs.get(p) != ours.get(p)}
    assert not differing, f"(docker, lamina): {json.dumps(differing, indent=1, default=str)[:3000]}"
    inspected = json.loads(docker.docker("image", "inspect", tag).stdout)[0]["Config"]
    own = json.loads(lamina(store, "inspect", tag).stdout)[0]["Config"]
    assert config(own) == config(inspected)
    their_history = docker.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", tag).stdout.decode().splitlines()
    our_history = lamina(store, "history", "--no-trunc", "--format", "{{.CreatedBy}}", tag).stdout.decode().splitlines()
    # the last line is the imported base's; 20.10 does not yet write --chown and --chmod, HEALTHCHECK and EXPOSE in another form, ARG without a global's default
    ours_, theirs_ = (
        [FLAGS.sub("", line) for line in lines[:-1] if not line.startswith(("HEALTHCHECK", "EXPOSE", "ARG"))]
        for lines in (our_history, their_history)
    )
    assert ours_ == theirs_
