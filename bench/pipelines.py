"""Pipelines: what a step costs, eight docker-building steps beside real docker, a path cache beside tar and gzip, a hundred loud steps.

    bench/pipelines.py [-k WORD] [--state DIR] [--json FILE] [--size MB]

Cases: step, cached, first, cache, logs. Everything lies below the same folder (--state, default /var/tmp). The load of the machine is printed with the
figures: on a machine that others use they say little. `first` starts a dockerd of its own (own data root, exec root, pid file, socket) and ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lamina.pipelines.caches.keeping import Identity
from lamina.pipelines.caches.versions import VersionedCaches
from lamina.testing import bases, dockerd

STEPS = 8
FILES = 50_000


class Bench:
    """One folder with a store and repositories."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        self.megabytes = megabytes
        self.base = bases.busybox_tar(place / "base.tar")
        self.lamina("import", str(self.base), "bench:1")

    def lamina(self, *arguments: str, folder: Path | None = None) -> tuple[float, int, str]:
        """(seconds, most memory in bytes, output)."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.place), "LAMINA_ROOT": str(self.place / "store")}
        with tempfile.TemporaryFile() as out:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "lamina", *arguments],
                cwd=folder or self.place,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            took = time.perf_counter() - begun
            out.seek(0)
            text = out.read().decode(errors="replace")
        if process.returncode:
            raise SystemExit(f"lamina {' '.join(arguments)} failed with {process.returncode}:\n{text[-3000:]}")
        return took, used.ru_maxrss << 10, text

    def repository(self, name: str, pipelines: str) -> Path:
        folder = self.place / name
        folder.mkdir()
        (folder / "bitbucket-pipelines.yml").write_text(pipelines)
        return folder


def commit(folder: Path) -> None:
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("-c", "user.name=b", "-c", "user.email=b", "commit", "-q", "-m", "b")):
        subprocess.run(["git", "-C", str(folder), *words], check=True)


def step(bench: Bench) -> dict[str, float]:
    """Wall time of `script: - true` from image to teardown, clone included; the first step makes the clone and is left out."""
    one = '    - step: {script: ["true"]}\n'
    folder = bench.repository("step", "image: bench:1\npipelines:\n  default:\n" + one * 40)
    commit(folder)
    bench.lamina("pipeline", "run", folder=folder)
    bench.lamina("pipeline", "run", "--report", str(bench.place / "r.json"), folder=folder)
    seconds = sorted(one["seconds"] for one in json.loads((bench.place / "r.json").read_text())["steps"][1:])
    return {"median ms": statistics.median(seconds) * 1000, "least ms": seconds[0] * 1000, "bar ms": 60}


def _eight(bench: Bench, name: str) -> Path:
    """Eight images of five steps each: 500 files, half a second of computing, small commands."""
    parts = []
    for number in range(1, STEPS + 1):
        parts.append(
            f"      - step: {{name: 'Build {number}', caches: [docker], services: [docker], script: [docker build -f Dockerfile.{number} .]}}\n"
        )
    folder = bench.repository(name, "image: bench:1\npipelines:\n  default:\n    - parallel:\n" + "".join(parts))
    for number in range(500):
        (folder / "src" / f"d{number // 50}").mkdir(parents=True, exist_ok=True)
        (folder / "src" / f"d{number // 50}" / f"f{number}").write_text(f"{number}\n" * 50)
    for number in range(1, STEPS + 1):
        (folder / f"Dockerfile.{number}").write_text(
            f"FROM bench:1\nRUN echo {number} > /number\nCOPY src /src\nRUN head -c 150m /dev/zero | sha256sum > /sum\n"
            f"RUN cat /src/d0/f0 /number > /all\nRUN rm /number\n"
        )
    commit(folder)
    return folder


def cached(bench: Bench) -> dict[str, float]:
    folder = _eight(bench, "cached")
    first, _, _ = bench.lamina("pipeline", "run", folder=folder)
    again = []
    for _ in range(3):
        seconds, _, text = bench.lamina("pipeline", "run", folder=folder)
        if text.count("---> Using cache") != 5 * STEPS:
            raise SystemExit("not everything was cached:\n" + text)
        again.append(seconds)
    return {"first s": first, "second s": statistics.median(again), "least s": min(again), "bar s": 2.0}


def first(bench: Bench) -> dict[str, float]:
    reason = dockerd.why_not()
    if reason is not None:
        raise SystemExit(f"first: {reason}")
    folder = _eight(bench, "first")
    ours, _, _ = bench.lamina("pipeline", "run", folder=folder)
    with dockerd.daemon(parent=bench.place) as daemon:
        daemon.docker("import", str(bench.base), "bench:1")
        begun = time.perf_counter()
        for number in range(1, STEPS + 1):
            daemon.docker("build", "--network=none", "-f", str(folder / f"Dockerfile.{number}"), str(folder), buildkit=False)
        theirs = time.perf_counter() - begun
    return {"lamina, parallel steps s": ours, "docker build one after another s": theirs, "ratio": ours / theirs, "bar": 0.7}


def cache(bench: Bench) -> dict[str, float]:
    """Restore, ten files changed, save; beside tar and gzip -6 of the same, unpacked and packed."""
    folder = bench.place / "cache"
    size = (bench.megabytes << 20) // FILES
    for number in range(FILES):
        if number % 100 == 0:
            (folder / f"d{number // 100}").mkdir(parents=True)
        # half of it cannot be packed, half is text: about what packages are
        (folder / f"d{number // 100}" / f"f{number}").write_bytes(
            os.urandom(size // 2) + (b"%d line of a file\n" % number * size)[: size - size // 2]
        )
    keeper = VersionedCaches(bench.place / "caches", time.time)
    identity = Identity("deps", "deps")
    empty = bench.place / "empty"
    empty.mkdir()
    keeper.restore(identity, empty, "bench", lambda line: None).save(folder, lambda line: None)
    found: dict[str, list[float]] = {"lamina": [], "tar": []}
    archive = bench.place / "cache.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as packed:
        packed.add(folder, "deps")
    for run in range(3):
        target = bench.place / f"restored{run}"
        target.mkdir()
        begun = time.perf_counter()
        held = keeper.restore(identity, target, "bench", lambda line: None)
        restored = time.perf_counter()
        for number in range(0, FILES, FILES // 10):
            (target / f"d{number // 100}" / f"f{number}").write_text(f"changed {run}")
        changed = time.perf_counter()
        held.save(target, lambda line: None)
        found["lamina"].append(time.perf_counter() - changed + restored - begun)
        shutil.rmtree(target)
    target = bench.place / "untarred"
    target.mkdir()
    begun = time.perf_counter()
    subprocess.run(["tar", "-C", str(target), "-xzf", str(archive)], check=True)
    subprocess.run(["tar", "-C", str(target), "--use-compress-program", "gzip -6", "-cf", f"{archive}.new", "deps"], check=True)
    found["tar"].append(time.perf_counter() - begun)
    ours, theirs = statistics.median(found["lamina"]), found["tar"][0]
    return {"restore and save s": ours, "tar and gzip s": theirs, "ratio": ours / theirs, "bar": 0.25}


def logs(bench: Bench) -> dict[str, float]:
    """A hundred parallel steps that print 10,000 lines each; every line must come whole, once, in its order."""
    lines = 10_000
    one = f"      - step: {{script: ['i=0; while [ $i -lt {lines} ]; do echo \"$BITBUCKET_PARALLEL_STEP line $i of a step that talks a lot\"; i=$((i+1)); done']}}\n"
    folder = bench.repository("logs", "image: bench:1\npipelines:\n  default:\n    - parallel:\n" + one * 100)
    commit(folder)
    seconds, memory, text = bench.lamina("pipeline", "run", folder=folder)
    seen = [0] * 100
    for line in text.splitlines():
        head, _, rest = line.partition("] ")
        words = rest.split(" ")
        if len(words) == 10 and words[1] == "line":
            number = int(words[0])
            if head.split(".")[0] != f"[{number + 1}" or int(words[2]) != seen[number]:
                raise SystemExit(f"out of order: {line}")
            seen[number] += 1
    if set(seen) != {lines}:
        raise SystemExit(f"lines are lost: {seen}")
    return {"memory MB": memory / (1 << 20), "bar MB": 200, "seconds": seconds, "lines": float(sum(seen))}


CASES: dict[str, Callable[[Bench], dict[str, float]]] = {"step": step, "cached": cached, "first": first, "cache": cache, "logs": logs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", metavar="WORD", default="", help="only the case with this name")
    parser.add_argument("--state", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=int, default=1024, help="MB of the path cache")
    given = parser.parse_args()
    print(f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}, Linux {platform.release()}")
    results = {}
    for name, case in CASES.items():
        if given.k and given.k != name:
            continue
        place = Path(tempfile.mkdtemp(prefix="lamina-bench-", dir=given.state))
        try:
            before = os.getloadavg()[0]
            figures = case(Bench(place, given.size))
            results[name] = {**figures, "load": before}
            print(
                f"{name}: " + ", ".join(f"{word} {value:.3g}" for word, value in figures.items()) + f" (load before: {before:.1f})",
                flush=True,
            )
        finally:
            shutil.rmtree(place, ignore_errors=True)
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
