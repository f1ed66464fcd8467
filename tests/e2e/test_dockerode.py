"""dockerode from npm as a client: what its users do, against a real `lamina serve`. One process of node for all."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.engineserver import serving
from lamina.testing.registry import docker_registry

SCRIPT = Path(__file__).with_name("dockerode") / "session.cjs"
LIBRARY = Path(__file__).parents[2] / ".venv" / "dockerode"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(not (LIBRARY / "node_modules/dockerode").exists(), reason="dockerode is not here (make test-deps)"),
]


def test_what_users_of_dockerode_do(tmp_path: Path) -> None:
    base = bases.busybox_tar(tmp_path / "base.tar")
    (tmp_path / "registry").mkdir()
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(serving(tmp_path / "root"))
        registry = stack.enter_context(docker_registry(tmp_path / "registry")) if shutil.which("docker-registry") else ""
        command = ["node", str(SCRIPT), str(LIBRARY), host.removeprefix("unix://"), str(base), registry]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    told = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.returncode == 0, "\n".join(told) + done.stderr
    assert len(done.stdout.splitlines()) > 10
