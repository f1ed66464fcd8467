"""Ten builds at once on one root, over and over, collections and checks between them: no build fails, none does what another does, nothing is lost.

Half of them build the same, half their own. LAMINA_ROUNDS says how many rounds; `make soak-builds` takes 100. In every other round
nothing is collected: there each step must have run in one process only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lamina.store.locks import Locks
from lamina.testing import bases
from lamina.testing.commandline import Lamina
from lamina.testing.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bases.why_not() is not None, reason=str(bases.why_not()))]

ROUNDS = int(os.environ.get("LAMINA_ROUNDS", "4"))
EQUAL, OWN = 5, 5
BY_SIZE = ["cache", "prune", "--keep", "1m"]  # records of layers that an image holds stay
COLLECTIONS = (BY_SIZE, ["cache", "prune", "--all"], BY_SIZE, ["cache", "prune", "--older-than", "1s"])
THE_SAME = """\
FROM base:1
COPY word /word
RUN cat /word /word > /twice
WORKDIR /made
RUN cp /twice thrice && cat /word >> thrice && ln thrice again
"""
ITS_OWN = """\
FROM base:1 AS tool
RUN echo tool > /tool
FROM base:1
COPY own-{number} /word
COPY --from=tool /tool /tool
RUN cat /word /tool > /both
"""


class Builds:
    """The ten of each round. `problems` and `seen` are written by one thread at a time."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.reports = project.root.parent
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()

    def round(self, turn: int, collecting: bool) -> None:
        names = [f"same-{number}" for number in range(EQUAL)] + [f"own-{number}" for number in range(OWN)]
        files = {f"{name}.Dockerfile": THE_SAME if name.startswith("same") else ITS_OWN.format(number=name[4:]) for name in names}
        files |= {f"own-{number}": f"{number} of {turn}\n" for number in range(OWN)}
        self.project.write(files | {"word": f"turn {turn}\n"})
        ended = threading.Event()
        collection = COLLECTIONS[turn // 2 % len(COLLECTIONS)]
        with ThreadPoolExecutor(2) as pool:
            beside = [pool.submit(self._over_and_over, command, ended) for command in (collection, ["check"])] if collecting else []
            try:
                made = self._at_once(names, turn)
            finally:
                ended.set()
            for each in beside:
                each.result()
        if self.problems:
            return
        if not collecting:
            self._no_double_work(made)
        if not collecting and len({made[name]["image"]["id"] for name in names if name.startswith("same")}) != 1:
            self.problems.append(f"round {turn}: the same things became several images")
        # Of the same things all layers are in the image; of the others a stage is not, and may have been collected.
        hits = names if not collecting else names[:EQUAL] if collection is BY_SIZE else []
        self._still_there(names, turn, made, hits)
        self._expect(["check"], turn)
        self._expect(["rmi", *(f"{name}:{turn}" for name in names)], turn)

    def _at_once(self, names: list[str], turn: int) -> dict[str, dict[str, Any]]:
        running = {name: self._start(name, turn) for name in names}
        made = {}
        for name, process in running.items():
            _, said = process.communicate(timeout=300)
            self.seen["builds"] += 1
            if process.returncode:
                self.problems.append(f"round {turn}, {name} ended with {process.returncode}: {said.decode()}")
                continue
            made[name] = json.loads((self.reports / f"{name}.json").read_text())
        return made

    def _start(self, name: str, turn: int) -> subprocess.Popen[bytes]:
        options = ["--progress=plain", "--report", str(self.reports / f"{name}.json"), "-f", f"{name}.Dockerfile", "-t", f"{name}:{turn}"]
        return subprocess.Popen(
            [sys.executable, "-m", "lamina", "build", *options, "."],
            env={"PATH": os.environ["PATH"], "HOME": str(self.project.folder), "LAMINA_ROOT": str(self.project.root)},
            cwd=self.project.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _over_and_over(self, command: list[str], ended: threading.Event) -> None:
        while not ended.is_set():
            self._expect(command, -1)
            self.seen[" ".join(command)] += 1

    def _expect(self, command: list[str], turn: int) -> None:
        done = self.project.run(*command)
        if done.returncode:
            self.problems.append(f"round {turn}: {' '.join(command)}: {done.returncode}: {(done.stdout + done.stderr).decode()}")

    def _no_double_work(self, made: dict[str, dict[str, Any]]) -> None:
        ran = Counter(step["key"] for document in made.values() for step in document["steps"] if step["verdict"] == "ran")
        self.seen["steps that ran"] += len(ran)
        self.problems += [f"{key} ran {count} times" for key, count in ran.items() if count > 1]

    def _still_there(self, names: list[str], turn: int, made: dict[str, dict[str, Any]], hits: list[str]) -> None:
        """A second build hits all over; and the files are those."""
        for name in names:
            again = self.project.build("-f", str(self.project.folder / f"{name}.Dockerfile"), "-t", f"{name}:{turn}")
            if name in hits:
                self.seen["second builds"] += 1
                other = again.report["image"]["id"] != made[name]["image"]["id"]  # by the times of records that went meanwhile
                if "x" in again.verdicts() or (other and len(hits) == len(names)):
                    self.problems.append(f"round {turn}, {name}: {again.verdicts()}: " + "; ".join(map(str, again.rows)))
        word = f"turn {turn}\n"
        self._holds("same-0", {"word": word, "twice": word * 2, "made/thrice": word * 3, "made/again": word * 3})
        own = f"own-{turn % OWN}"
        self._holds(own, {"word": f"{turn % OWN} of {turn}\n", "both": f"{turn % OWN} of {turn}\ntool\n"})

    def _holds(self, name: str, expected: dict[str, str]) -> None:
        out = self.reports / "out"
        self.project.build("-f", str(self.project.folder / f"{name}.Dockerfile"), "-o", f"type=local,dest={out}")
        found = {path: (out / path).read_text() for path in expected}
        if found != expected:
            self.problems.append(f"{name}: {found}")
        shutil.rmtree(out)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "context", tmp_path / "store")
    made.folder.mkdir()
    done = made.run("import", str(bases.busybox_tar(tmp_path / "base.tar")), "base:1")
    assert done.returncode == 0, done.stderr.decode()
    return made


def test_ten_builds_at_once_and_collections(project: Project) -> None:
    builds = Builds(project)
    for turn in range(ROUNDS):
        builds.round(turn, collecting=turn % 2 == 0)
        assert not builds.problems, f"round {turn}:\n" + "\n".join(builds.problems)
    print(f"{ROUNDS} rounds: {dict(builds.seen)}")
    deep = project.run("check", "--deep")
    assert deep.returncode == 0, deep.stdout.decode() + deep.stderr.decode()
    for name in ("tmp", "active", "leases"):
        assert os.listdir(project.root / name) == [], name
    assert str(project.root) not in Path("/proc/self/mountinfo").read_text()


def test_what_another_process_did_since_it_was_looked_for(lamina: Lamina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done and its lock given back between our look and our lock: nobody waits, and it is not done again."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /x\nCOPY Dockerfile /y\n")
    held = Locks.key
    others: list[subprocess.CompletedProcess[bytes]] = []

    def key(self: Locks, *arguments: Any) -> Any:
        if not others:
            others.append(subprocess.run([sys.executable, "-m", "lamina", "build", str(context)], capture_output=True, check=False))
        return held(self, *arguments)

    monkeypatch.setattr(Locks, "key", key)
    report = tmp_path / "report.json"
    done = lamina("build", "--report", str(report), str(context))
    assert done.code == 0, done.err
    assert others[0].returncode == 0, others[0].stderr
    assert [step["verdict"] for step in json.loads(report.read_text())["steps"] if step["text"].startswith("COPY")] == ["hit", "hit"]
    assert "a step of another build" in done.err
