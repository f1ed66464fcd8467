"""Building, saving and loading need the same memory whatever a layer's size. LAMINA_LAYER_MB says how large the two layers are."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from lamina.testing.project import Project

SIZE = int(os.environ.get("LAMINA_LAYER_MB", "300"))
LIMIT = 150 if SIZE > 1000 else 120  # MiB; held in memory as a whole, either layer would be far above

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="builds with RUN as root")]


def peak(project: Project, *arguments: str) -> float:
    """MiB that one command had at most, as the kernel counts them; its children's are their own."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", "LAMINA_ROOT": str(project.root)}
    log = project.root.parent / "log"
    write = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "lamina", *arguments], environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)],
    )  # fmt: skip
    _, status, used = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()
    return used.ru_maxrss / 1024


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
