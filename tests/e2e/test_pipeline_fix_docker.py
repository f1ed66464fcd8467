"""What `lamina pipeline fix` writes, run by bash against real daemons: each step's second run, on a fresh daemon, takes its image from its own cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamina.pipelines.fix import fix
from lamina.pipelines.load import load
from lamina.pipelines.model import Command
from lamina.testing import bases, dockerd

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.xdist_group("dockerd"),
]

FILE = """pipelines:
  default:
    - parallel:
      - step:
          name: 'Build 1'
          caches:
            - docker
          services:
            - docker
          script:
            - docker build --network=host one
      - step:
          name: 'Build 2'
          caches:
            - docker
          services:
            - docker
          script:
            - docker build --network=host two
"""


def run(daemon: dockerd.Daemon, script: list[str], folder: Path, home: Path) -> str:
    """One shell for all items, as a step has it; the caches below *home* are what Bitbucket would restore."""
    environment = {**os.environ, "HOME": str(home), "DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_BUILDKIT": "0"}
    environment["PATH"] = f"{Path(dockerd.CLIENT).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-ec", "\n".join(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_step_hits_on_a_fresh_daemon(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(f"FROM base:1\nRUN echo {name} > /{name}\nRUN cat /{name}\n")
    document = load(fix(FILE).text)
    assert document.default is not None
    scripts = [[item.text for item in step.script if isinstance(item, Command)] for step in document.default.steps()]
    base = tmp_path / "base.tar"
    for attempt in ("cold", "warm"):
        for number, script in enumerate(scripts):
            with dockerd.daemon() as daemon:
                if not base.exists():
                    daemon.docker("import", str(bases.busybox_tar(tmp_path / "root.tar")), "base:1")
                    daemon.docker("save", "-o", str(base), "base:1")
                else:
                    daemon.docker("load", "-i", str(base))
                said = run(daemon, script, tmp_path, tmp_path)
            assert said.count("Using cache") == (0 if attempt == "cold" else 2), (attempt, number, said)
    assert len(list((tmp_path / ".docker-cache").glob("*/images.tar"))) == 2
