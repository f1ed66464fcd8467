"""The recorded rules of the wire, against a real `lamina serve`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases
from lamina.testing.engineserver import serving

FOLDER = Path(os.environ.get("LAMINA_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance") / "engine"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.skipif(not (FOLDER / "wire_cases.py").exists(), reason="the engine's cases are not here (LAMINA_CONFORMANCE)"),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "root") as address:
        yield address


def test_every_rule_holds(host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-B", str(FOLDER / "wire_cases.py"), "--host", host], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if not line.startswith("PASS"))
    assert done.stdout.count("PASS") >= 26
