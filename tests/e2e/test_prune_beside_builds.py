"""Pruning of everything, over and over, while builds run: no build fails and none gives a wrong image. Of the store and of a shared folder."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.upkeep import prune
from lamina.testing.project import Project

ROUNDS = 4


def builds(project: Project, number: int, *options: str) -> list[str]:
    """Errors of some builds, each of another content, some of them again."""
    wrong = []
    folder = project.folder.parent / f"context{number}"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        "FROM base:1 AS tool\nRUN echo tool > /tool\nFROM base:1\nCOPY word /word\nCOPY --from=tool /tool /tool\nRUN cat /word /tool > /both\n"
    )
    for turn in range(ROUNDS):
        word = f"{number} {turn // 2}\n"
        (folder / "word").write_text(word)
        out = folder.parent / f"out{number}-{turn}"
        done = project.run("build", "-q", *options, "-o", f"type=local,dest={out}", str(folder))
        if done.returncode != 0:
            wrong.append(done.stderr.decode())
        elif (out / "both").read_text() != f"{word}tool\n":
            wrong.append(f"{number} {turn}: {(out / 'both').read_text()!r}")
    return wrong


@pytest.mark.slow
def test_of_the_store(project: Project) -> None:
    stop = threading.Event()
    pruned: list[str] = []

    def pruning() -> None:
        while not stop.is_set():
            done = project.run("cache", "prune", "--all")
            if done.returncode:
                pruned.append(done.stderr.decode())

    with ThreadPoolExecutor(3) as pool:
        loop = pool.submit(pruning)
        found = [pool.submit(builds, project, number) for number in range(2)]
        try:
            wrong = [line for each in found for line in each.result()]
        finally:
            stop.set()
        loop.result()
    assert wrong == []
    assert pruned == []
    assert b"sound" in project.run("cache", "verify", "--bytes").stdout


@pytest.mark.slow
def test_of_a_shared_folder(project: Project, tmp_path: Path) -> None:
    """With no time of grace: harder than any prune that a user can ask for."""
    place = tmp_path / "shared"
    stop = threading.Event()

    def pruning() -> None:
        while not stop.wait(0.05):
            prune(DirectoryObjects(place), time.time(), expiry=None, cap=0, grace=0.0)

    machines = [Project(project.folder, tmp_path / f"store{number}") for number in range(2)]
    for machine in machines:
        done = project.run("save", "-o", str(tmp_path / "base.tar"), "base:1")
        assert done.returncode == 0
        assert machine.run("load", "-i", str(tmp_path / "base.tar")).returncode == 0
    options = ("--cache-from", f"dir:{place}", "--cache-to", f"dir:{place}")
    assert builds(machines[0], 9, *options) == []
    with ThreadPoolExecutor(3) as pool:
        loop = pool.submit(pruning)
        found = [pool.submit(builds, machine, number, *options) for number, machine in enumerate(machines)]
        try:
            wrong = [line for each in found for line in each.result()]
        finally:
            stop.set()
        loop.result()
    assert wrong == []
    assert machines[0].run("cache", "verify", f"dir:{place}", "--bytes", "--repair").returncode == 0
