"""The recorded sequences of the docker CLI, against a real `lamina serve`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.engineserver import serving
from lamina.testing.registry import docker_registry

FOLDER = Path(os.environ.get("LAMINA_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance") / "engine"
CLIENTS = [path for path in ("/usr/bin/docker", "/usr/local/bin/docker") if os.path.exists(path)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.skipif(not (FOLDER / "cli_cases.py").exists(), reason="the engine's cases are not here (LAMINA_CONFORMANCE)"),
    pytest.mark.skipif(not CLIENTS, reason="no docker CLI is installed"),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "root") as address:
        yield address


@pytest.mark.parametrize("client", CLIENTS)
def test_the_sequences_of_every_tier_work(host: str, client: str, tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(FOLDER / "cli_cases.py"), "--host", host, "--docker", client, "--tier", "full"]
    if shutil.which("docker-registry"):
        with docker_registry(tmp_path) as registry:
            done = subprocess.run([*command, "--registry", registry], capture_output=True, text=True, timeout=600, check=False)
    else:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("PASS", "SKIP")))
