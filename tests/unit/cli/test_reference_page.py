"""docs/reference/cli.md says what the commands say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_cli_page_is_current() -> None:
    script = ROOT / "docs/reference/generate_cli.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exit_code_of_an_error_stands_on_the_page() -> None:
    told = set(re.findall(r"^\| (\d+) ", (ROOT / "docs/reference/exit-codes.md").read_text(), re.MULTILINE))
    docker_shim = {"125"}  # of the program named docker in a pipeline's step: docker's own
    for path in (ROOT / "src/lamina").rglob("*.py"):
        for code in re.findall(r"(?:default_exit = |exit_code=)(\d+)", path.read_text()):
            assert code in told | docker_shim, f"{path}: {code}"
