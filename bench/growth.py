"""`make bench-growth`: how a build's cost grows with the files of a context, the steps of a Dockerfile and the records of a store.

    bench/growth.py [--files 1000,10000,100000] [--steps 10,100,500] [--records 100,10000,1000000] [-n ROUNDS] [--state DIR]
                    [--json FILE] [--svg FILE] [--table FILE] [--draw FILE]

    files    FROM, COPY of so many files of 1 KB (100 in a folder), RUN
    steps    FROM and RUN steps, so many in all; the sixth from the end is a COPY of one file: editing it runs six steps
    records  ten steps, in a store that has so many records beside theirs; and 64 lookups alone

A round makes for each size a new store, builds (cold), builds again (nothing changed), edits one file and builds (one file edited). All sizes take
turns in a round. Figures are medians, of processor seconds (user and system, of the command and all that it started) and of wall time.
--svg draws the processor seconds on logarithmic axes, --table writes them as Markdown; --draw FILE draws what an earlier run's --json wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import growthplot
import lookups
import run as bench

from lamina.layer.flavour import Flavour
from lamina.store.local import LocalStore

Figures = dict[str, dict[str, dict[str, list[float]]]]
"""Axis -> case -> size -> [processor seconds, wall seconds], medians."""
COLD, SAME, EDIT, ASK = "cold", "nothing changed", "one file edited", "64 lookups"


def files(folder: Path, count: int) -> Path:
    """Returns the file to edit."""
    text = "a line of a file, as many are\n" * 34
    for number in range(count):
        inner = folder / f"src/p{number // 2500}/d{number // 100}"
        if number % 100 == 0:
            inner.mkdir(parents=True)
        (inner / f"f{number}.txt").write_text(f"{number}\n{text}")
    bench.dockerfile(folder, "FROM bench-base:1\nCOPY src /src\nRUN echo done > /done\n")
    return folder / "src/p0/d0/f7.txt"


def steps(folder: Path, count: int) -> Path:
    (folder / "one").write_text("1\n")
    lines = [f"RUN echo {number} > /f{number}\n" for number in range(count - 1)]  # with FROM so many
    lines[-6] = "COPY one /one\n"
    bench.dockerfile(folder, "FROM bench-base:1\n" + "".join(lines))
    return folder / "one"


class Place:
    """One size of one axis: a context, a store."""

    def __init__(self, state: Path, axis: str, size: int, base: Path) -> None:
        self.axis, self.size, self._base = axis, size, base
        self._root, self._folder = state / f"{axis}-{size}-root", state / f"{axis}-{size}"
        self._folder.mkdir()
        self._program = str(Path(sys.executable).with_name("lamina"))
        if axis == "records":
            bench.ten(self._folder)
            self._edited = self._folder / "dir2/f3"
            self._new_store()
        else:
            self._edited = (files if axis == "files" else steps)(self._folder, size)

    def round(self, number: int) -> Iterator[tuple[str, tuple[float, float]]]:
        if self.axis == "records":
            yield ASK, self._ask()
        else:
            self._new_store()
            yield COLD, self._build()
        time.sleep(2.1)  # past the stat cache's racy window, as in life
        self._build()
        yield SAME, self._build()
        self._edited.write_text(f"edited {number} {os.getpid()}\n")
        yield EDIT, self._build()

    def _new_store(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        self._run("import", str(self._base), "bench-base:1")
        if self.axis == "records":
            self._run("build", str(self._folder))
            with LocalStore.open(self._root, Flavour("trusted"), now=time.time) as store:
                lookups.fill_store(store, self.size)

    def _ask(self) -> tuple[float, float]:
        """64 keys, each alone, of which half are there."""
        keys = [lookups.key(lookups._FAR * (1 + n % 2) + n) for n in range(lookups.KEYS)]
        with LocalStore.open(self._root, Flavour("trusted"), now=time.time) as store:
            records = lookups.LocalRecords(store.database, store.now)
            records.lookup(keys)  # opens the database
            used, begun = time.process_time(), time.perf_counter()
            for _ in range(20):
                for each in keys:
                    records.lookup([each])
            return (time.process_time() - used) / 20, (time.perf_counter() - begun) / 20

    def _build(self) -> tuple[float, float]:
        return self._run("build", "--progress=plain", "-t", "grown:1", str(self._folder))

    def _run(self, *words: str) -> tuple[float, float]:
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([self._program, *words], env={**os.environ, "LAMINA_ROOT": str(self._root)}, capture_output=True, check=False)
        took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"lamina {words} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')[-2000:]}")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def measure(axes: dict[str, list[int]], rounds: int, state: Path) -> Figures:
    base = bench.base_tar(state)
    found: Figures = {}
    for axis, sizes in axes.items():
        places = [Place(state, axis, size, base) for size in sizes]
        taken: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for number in range(rounds):
            for place in places:
                for case, one in place.round(number):
                    taken.setdefault(case, {}).setdefault(str(place.size), []).append(one)
        found[axis] = {
            case: {size: [statistics.median(c for c, _ in each), statistics.median(w for _, w in each)] for size, each in row.items()}
            for case, row in taken.items()
        }
        show(axis, found[axis])
        for each in state.glob(f"{axis}-*"):
            shutil.rmtree(each, ignore_errors=True)
    return found


def show(axis: str, cases: dict[str, dict[str, list[float]]]) -> None:
    for case, row in cases.items():
        cells = "".join(f"{int(size):>9}: {cpu:8.4f} ({wall:.4f})" for size, (cpu, wall) in row.items())
        grown = ", ".join(f"{row[b][0] / row[a][0]:.2f}" for a, b in pairwise(row))
        print(f"{axis:8} {case:16}{cells}   step: {grown} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for axis, sizes in (("files", "1000,10000,100000"), ("steps", "10,100,500"), ("records", "100,10000,1000000")):
        parser.add_argument(f"--{axis}", default=sizes, help=f"default {sizes}; empty: leave out")
    parser.add_argument("-n", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--state", default="/var/tmp")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--svg", metavar="FILE")
    parser.add_argument("--table", metavar="FILE")
    parser.add_argument("--draw", metavar="FILE", help="measure nothing: take the figures of this file")
    options = parser.parse_args()
    if options.draw:
        found: Figures = json.loads(Path(options.draw).read_text())
    else:
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; processor seconds (wall)", flush=True)
        axes = {axis: [int(each) for each in text.split(",")] for axis in ("files", "steps", "records") if (text := getattr(options, axis))}
        state = Path(tempfile.mkdtemp(prefix="lamina-growth-", dir=options.state))
        try:
            found = measure(axes, options.n, state)
        finally:
            shutil.rmtree(state, ignore_errors=True)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.svg:
        Path(options.svg).write_text(growthplot.svg(found))
    if options.table:
        Path(options.table).write_text(growthplot.table(found))


if __name__ == "__main__":
    main()
