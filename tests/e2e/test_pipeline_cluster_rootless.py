"""`--engine processes://N` as an ordinary user: each job enters a user namespace of its own, also for docker."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import ordinary

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.slow,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed (make test-deps)"),
]

PIPELINES = """
image: host
definitions:
  caches: {deps: vendor}
pipelines:
  default:
    - step:
        caches: [deps]
        script: [id -u, mkdir -p out vendor, echo made > out/file, chown 7:8 out/file, echo kept > vendor/file]
        artifacts: ['out/**']
    - step:
        caches: [deps]
        services: [docker]
        script:
          - cat out/file vendor/file
          - docker version --format 'engine {{.Server.Version}}' || echo no client
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with ordinary.home() as folder:
        yield folder


def test_steps_of_an_ordinary_user(home: Path) -> None:
    repository = home / "repo"
    repository.mkdir()
    (repository / "bitbucket-pipelines.yml").write_text(PIPELINES)
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t", "commit", "-q", "-m", "x")):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)
    settings = {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": "userns", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = ordinary.run(["-m", "lamina", "pipeline", "run", "--engine", "processes://2", str(repository)], home, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.partition("] ")[2] for line in done.stdout.splitlines()]
    assert "0" in lines
    assert lines.index("made") < lines.index("kept")
    assert any(line.startswith("engine ") or line == "no client" for line in lines)
