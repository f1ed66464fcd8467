"""Building, saving and loading need the same memory whatever a layer's size. LAMINA_LAYER_MB says how large the two layers are."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.testing.project import Project

SIZE = int(os.environ.get("LAMINA_LAYER_MB", "300"))
LIMIT = 150 if SIZE > 1000 else 120  # MiB; held in memory as a whole, either layer would be far above

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="builds with RUN as root")]


# An exec'd program's ru_maxrss begins with the size of the process that was forked for it, so a small one stands in between.
MEASURE = "import os, resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"


def peak(project: Project, *arguments: str) -> float:
    """MiB that the largest process of one command had, as the kernel counts them."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", "LAMINA_ROOT": str(project.root)}
    command = [sys.executable, "-I", "-S", "-c", MEASURE, sys.executable, "-m", "lamina", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) / 1024


def test_large_layers_need_little_memory(project: Project, tmp_path: Path) -> None:
    block = random.Random(1).randbytes(1 << 20)
    with open(project.folder / "big", "wb") as out:
        for _ in range(SIZE):
            out.write(block)
    project.dockerfile(f"""
        FROM base:1
        COPY big /big
        RUN dd if=/dev/urandom of=/made bs=1M count={SIZE}
    """)
    archive = str(tmp_path / "image.tar")
    found = {
        "build": peak(project, "build", "-q", "-t", "big:1", str(project.folder)),
        "save": peak(project, "save", "-o", archive, "big:1"),
        "load": peak(project, "load", "-i", archive),
    }
    print({name: round(size) for name, size in found.items()})
    assert max(found.values()) < LIMIT, found
