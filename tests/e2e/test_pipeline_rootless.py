"""`lamina pipeline run` as an ordinary user: parallel steps with services, artifacts, caches and the docker service."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, ordinary

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed (make test-deps)"),
]

PIPELINES = """
image: base:1
definitions:
  services:
    db: {image: db:1}
pipelines:
  default:
    - parallel:
      - step: &one
          services: [db]
          caches: [node]
          script:
            - for i in $(seq 600); do answer=$(nc localhost 5432 </dev/null) && break; sleep 0.1; done; echo "got $answer"
            - id -u; echo x >> node_modules/x; chown 7:8 node_modules/x
            - mkdir -p out && echo made > out/$BITBUCKET_PARALLEL_STEP && chown 7:8 out/*
          artifacts: ['out/**']
      - step: *one
    - step:
        caches: [node]
        script: [cat out/0 out/1 node_modules/x, stat -c %u out/0 node_modules/x]
    - step:
        services: [docker]
        caches: [docker]
        script:
          - type docker || exit 0
          - docker build -t made . && docker run --rm made cat /made
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with ordinary.home() as folder:
        yield folder


def test_a_whole_pipeline(home: Path) -> None:
    bases.busybox_tar(home / "base.tar")
    repository = home / "repo"
    repository.mkdir()
    (repository / "Dockerfile").write_text("FROM base:1\nRUN echo inside > /made\n")
    (repository / "Db").write_text('FROM base:1\nENTRYPOINT ["sh", "-c", "while true; do echo hello | nc -l -p 5432; done"]\n')
    (repository / "bitbucket-pipelines.yml").write_text(PIPELINES)
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("-c", "user.name=t", "-c", "user.email=t", "commit", "-q", "-m", "x")):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)
    settings = {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": "userns", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def lamina(*arguments: str) -> str:
        done = ordinary.run(["-m", "lamina", *arguments], home, settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    lamina("import", str(home / "base.tar"), "base:1")
    lamina("build", "-t", "db:1", "-f", str(repository / "Db"), str(repository))
    for command in ("auto", "own"):
        text = lamina("pipeline", "run", str(repository), "--docker-cli", command)
    assert text.count("got hello") == 2
    assert text.count("] made\n") == 2
    assert text.count("] 7\n") == 2
    assert 'Cache "node": hit: 1 files' in text
    assert "] inside\n" in text
