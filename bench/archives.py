"""`make bench-archives`: `save` and `load` of an image of 500 MB, by lamina and by docker, in turns.

    bench/archives.py [-n ROUNDS] [--state DIR] [--json FILE]

The image has seven layers: random bytes (100 MB, which nothing makes smaller), text (150 MB), two of programs and libraries (150 MB), 10,000
small files (60 MB), 40 files of 1 MB, and a step's small file. Both builders build it from one context; `load` reads what docker has saved, into a
store that knows nothing of it: the image and all caches are removed before. `loaded`: the image came from an archive, so that lamina has
its layers as blobs.

A round is one command of each, in turns. Wall time is the client's; processor time is of the client and of what it started, for docker of the daemon, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import run as bench

from lamina.testing import dockerd

_MB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def content(folder: Path) -> None:
    """The context: five folders and a Dockerfile."""
    chance = random.Random(500)
    for name in ("random", "text", "programs", "libraries", "small", "middle"):
        (folder / name).mkdir()
    (folder / "random/bytes").write_bytes(chance.randbytes(100 * _MB))
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randrange(2, 10))) for _ in range(5000)]
    for number in range(15):
        with (folder / f"text/t{number}").open("w") as out:
            while out.tell() < 10 * _MB:
                out.write(" ".join(chance.choices(words, k=4000)) + "\n")
    for name, source in (("programs", "/usr/bin"), ("libraries", "/usr/lib/x86_64-linux-gnu")):
        left = 75 * _MB
        for entry in sorted(os.scandir(source), key=lambda e: e.name):
            if entry.is_file(follow_symlinks=False) and 0 < entry.stat().st_size <= left:
                shutil.copyfile(entry.path, folder / name / entry.name)
                left -= entry.stat().st_size
    for number in range(10_000):
        if number % 100 == 0:
            (folder / f"small/d{number // 100}").mkdir()
        (folder / f"small/d{number // 100}/f{number}.js").write_text(f"export const n{number} = {number};\n" * 190)
    for number in range(40):
        (folder / f"middle/m{number}").write_bytes(chance.randbytes(_MB // 2) + bytes(_MB // 2))
    copies = "".join(f"COPY {name} /data/{name}\n" for name in ("random", "text", "programs", "libraries", "small", "middle"))
    (folder / "Dockerfile").write_text(f"FROM bench-base:1\n{copies}RUN echo done > /done\n")


class Run:
    """One command: (wall seconds, processor seconds)."""

    def __init__(self, environment: dict[str, str], daemon: int | None) -> None:
        self._environment, self._daemon = {**os.environ, **environment}, daemon

    def __call__(self, *argv: str) -> tuple[float, float]:
        used, before, begun = self._used(), os.times(), time.perf_counter()
        done = subprocess.run(argv, env=self._environment, capture_output=True, check=False)
        took, after = time.perf_counter() - begun, os.times()
        if done.returncode:
            raise RuntimeError(f"{argv} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')[-2000:]}")
        own = after.children_user + after.children_system - before.children_user - before.children_system
        return took, own + self._used() - used

    def _used(self) -> float:
        if self._daemon is None:
            return 0.0
        fields = Path(f"/proc/{self._daemon}/stat").read_text().rpartition(")")[2].split()
        return sum(int(each) for each in fields[11:15]) / _TICKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--state", default="/var/tmp", help="folder below which both keep their state")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if missing := dockerd.why_not():
        sys.exit(f"the bench needs dockerd: {missing}")
    state = Path(tempfile.mkdtemp(prefix="lamina-archives-", dir=options.state))
    try:
        results = measure(state, options.n)
    finally:
        shutil.rmtree(state, ignore_errors=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


def measure(state: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    base, context = bench.base_tar(state), state / "context"
    context.mkdir()
    content(context)
    program = str(Path(sys.executable).with_name("lamina"))
    built, fresh = (Run({"LAMINA_ROOT": str(state / name)}, None) for name in ("built", "fresh"))
    built(program, "import", str(base), "bench-base:1")
    built(program, "build", "-t", "five:1", str(context))
    with dockerd.daemon(parent=state) as daemon:
        docker = Run({"DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_BUILDKIT": "0"}, int((daemon.socket.parent / "pid").read_text()))
        docker(dockerd.CLIENT, "import", str(base), "bench-base:1")
        docker(dockerd.CLIENT, "build", "-t", "five:1", str(context))
        shutil.rmtree(context)
        theirs, ours, again = state / "theirs.tar", state / "ours.tar", state / "again.tar"
        docker(dockerd.CLIENT, "save", "-o", str(theirs), "five:1")
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, archive of {theirs.stat().st_size / 1e6:.0f} MB, {rounds} rounds"
        )

        def forget() -> None:
            shutil.rmtree(state / "fresh", ignore_errors=True)
            daemon.docker("rmi", "-f", "five:1", "bench-base:1")
            daemon.docker("image", "prune", "-af")

        cases: list[tuple[str, Callable[[], tuple[float, float]], Callable[[], tuple[float, float]]]] = [
            ("save, built here", lambda: built(program, "save", "-o", str(ours), "five:1"), lambda: docker(dockerd.CLIENT, "save", "-o", str(theirs), "five:1")),
            ("load", lambda: fresh(program, "load", "-i", str(theirs)), lambda: docker(dockerd.CLIENT, "load", "-i", str(theirs))),
            ("save, loaded before", lambda: fresh(program, "save", "-o", str(again), "five:1"), lambda: docker(dockerd.CLIENT, "save", "-o", str(theirs), "five:1")),
        ]  # fmt: skip  # a case is a line
        found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {"lamina": [], "docker": []} for name, _, _ in cases}
        for number in range(rounds + 1):
            for name, lamina, peer in cases:
                if name == "load":
                    forget()
                os.sync()
                took = {"lamina": lamina()}
                os.sync()
                took["docker"] = peer()
                if number:  # the first round has cold caches
                    for who, one in took.items():
                        found[name][who].append(one)
    results: dict[str, dict[str, list[float]]] = {}
    for name, pair in found.items():
        row = {
            who: [statistics.median(t for t, _ in each), min(t for t, _ in each), statistics.median(c for _, c in each)]
            for who, each in pair.items()
        }
        results[name] = row
        own, other = row["lamina"], row["docker"]
        print(
            f"{name:20} lamina {own[0]:6.2f} s (fastest {own[1]:.2f}, processor {own[2]:.2f})   docker {other[0]:6.2f} s (fastest {other[1]:.2f}, "
            f"processor {other[2]:.2f})   {own[0] / other[0]:.2f} x (fastest {own[1] / other[1]:.2f}, processor {own[2] / other[2]:.2f})",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
