"""The case that the cache was designed for: refresh one of four stages, and only it.

The story: a build clones private repositories in a stage of its own. `--no-cache` rebuilds everything; a declared and unused ARG with a
timestamp rebuilds that stage and, in docker, all that depends on it, even if the clones are the same.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.project import Project
from lamina.testing.registry import free_port

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")

DOCKERFILE = """
FROM gitbase:1 AS repo-sources-base

# Install git.
RUN \\
    git --version && \\
    :

FROM repo-sources-base AS repo-sources

ARG INVALIDATE_CACHE_TIMESTAMP="0000-00-00T00:00:00.000000Z"

ARG SSH_PRIVATE_KEY
RUN \\
    mkdir /root/.ssh && \\
    echo "${SSH_PRIVATE_KEY}" > /root/.ssh/id_rsa && \\
    chmod 600 /root/.ssh/id_rsa && \\
    :

RUN mkdir -p /x/repos

WORKDIR /x/repos

RUN git clone --quiet @url@/one.git && rm -rf one/.git
RUN git clone --quiet @url@/two.git maybe_deploy_dir_2 && rm -rf maybe_deploy_dir_2/.git
RUN git clone --quiet @url@/three.git && rm -rf three/.git
RUN git clone --quiet @url@/four.git && rm -rf four/.git

FROM base:1 AS base

RUN echo server > /etc/server

FROM base AS release

COPY . /x/repos/app

COPY --from=repo-sources /x/repos /x/repos
"""


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def gitbase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's own git with its libraries on busybox."""
    if bases.why_not():
        pytest.skip(bases.why_not() or "")
    core = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    return bases.host_program_tar(tmp_path_factory.mktemp("gitbase") / "git.tar", ["git"], [core, "/usr/share/git-core/templates"])


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Four repositories served by `git daemon` on loopback."""
    import socket
    import time

    served = tmp_path / "served"
    served.mkdir()
    for name in ("one", "two", "three", "four"):
        work = tmp_path / "work" / name
        work.mkdir(parents=True)
        git(work, "init", "-q")
        (work / "file").write_text(f"{name}\n")
        git(work, "add", ".")
        git(work, "commit", "-qm", "first")
        git(work, "clone", "-q", "--bare", str(work), str(served / f"{name}.git"))
    port = free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={served}", str(served)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert daemon.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        yield f"git://127.0.0.1:{port}"
    finally:
        daemon.terminate()
        daemon.wait()


def test_only_the_refreshed_stage_runs(project: Project, gitbase: Path, url: str, tmp_path: Path) -> None:
    assert project.run("import", str(gitbase), "gitbase:1").returncode == 0
    project.write({"app.py": "print()\n", "Dockerfile": DOCKERFILE.replace("@url@", url).lstrip()})
    key = ("--build-arg", "SSH_PRIVATE_KEY=not a real key")

    def build(*options: str) -> tuple[dict[str, str], list[str]]:
        outcome = project.build("--target", "release", *key, *options)
        rows = [r for r in outcome.rows if r.verdict in ("hit", "ran")]
        by_stage: dict[str, str] = {}
        for row in rows:
            if not row.text.startswith("FROM"):
                by_stage.setdefault(str(row.stage), "")
                by_stage[str(row.stage)] += "C" if row.verdict == "hit" else "x"
        return by_stage, [str(r) for r in rows]

    first, _ = build("--build-arg", "INVALIDATE_CACHE_TIMESTAMP=first")
    assert "C" not in "".join(first.values())
    same, rows = build("--build-arg", "INVALIDATE_CACHE_TIMESTAMP=first")
    assert "x" not in "".join(same.values()), rows
    second, rows = build("--build-arg", "INVALIDATE_CACHE_TIMESTAMP=second")
    assert "x" not in second["0"] + second["2"] + second["3"], rows
    runs = second["1"].replace("C", "")
    assert len(runs) >= 6, rows  # every RUN of repo-sources; its WORKDIR may hit

    git(tmp_path / "work" / "two", "commit", "-q", "--allow-empty", "-m", "nothing new")
    (tmp_path / "work" / "two" / "file").write_text("changed\n")
    git(tmp_path / "work" / "two", "commit", "-qam", "second")
    git(tmp_path / "work" / "two", "push", "-q", str(tmp_path / "served" / "two.git"), "HEAD:main")
    stale, rows = build("--build-arg", "INVALIDATE_CACHE_TIMESTAMP=second")
    assert "x" not in "".join(stale.values()), rows
    fresh, rows = build("--build-arg", "INVALIDATE_CACHE_TIMESTAMP=second", "--refresh", "repo-sources")
    assert "x" not in fresh["0"] + fresh["2"], rows
    assert fresh["3"] == "Cx", rows  # COPY . hits, COPY --from brings the new clone
