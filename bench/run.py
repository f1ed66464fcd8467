"""`make bench`: the same Dockerfiles built by lamina, docker (classic and BuildKit) and buildah in one run, medians and ratios.

    bench/run.py [-n RUNS] [-k WORD] [--peers lamina,buildkit,classic,buildah] [--state DIR] [--json FILE]

Every peer keeps its state below the same folder (--state, default /var/tmp). A run changes what its case says (a salt, one file) and is
timed as a whole process. Peers that are not installed are left out and named.
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
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lamina.testing import dockerd


@dataclass(frozen=True)
class Case:
    """`make(folder)` writes context and Dockerfile; `change(folder, run)` is what happens before each timed build."""

    name: str
    title: str
    make: Callable[[Path], None]
    change: Callable[[Path, int], None]
    runs: int = 9  # at most so many timed runs: what takes minutes need not be asked often


def dockerfile(folder: Path, text: str) -> None:
    (folder / "Dockerfile").write_text(textwrap.dedent(text).lstrip())


def nothing(folder: Path, run: int) -> None:
    pass


def salted(folder: Path, run: int) -> None:
    """A new ENV value before everything: no step of an earlier run can be reused."""
    text = (folder / "Dockerfile").read_text()
    lines = [f"ENV SALT={run}-{os.getpid()}" if line.startswith("ENV SALT=") else line for line in text.split("\n")]
    (folder / "Dockerfile").write_text("\n".join(lines))


def ten(folder: Path) -> None:
    for number in range(4):
        (folder / f"dir{number}").mkdir()
        for file in range(10):
            (folder / f"dir{number}" / f"f{file}").write_text(f"{number} {file}\n" * 50)
    dockerfile(
        folder,
        """
        FROM bench-base:1
        ENV SALT=0
        WORKDIR /app
        COPY dir0 /app/dir0
        RUN echo 1 > /1
        COPY dir1 /app/dir1
        RUN echo 2 > /2
        COPY dir2 /app/dir2
        RUN echo 3 > /3
        RUN echo 4 > /4
        COPY dir3 /app/dir3
        RUN echo 5 > /5
        """,
    )


def edit_dir2(folder: Path, run: int) -> None:
    (folder / "dir2" / "f3").write_text(f"edited {run} {os.getpid()}\n")


def twenty(folder: Path) -> None:
    dockerfile(folder, "FROM bench-base:1\nENV SALT=0\n" + "RUN true\n" * 20)


def six(folder: Path) -> None:
    stages = "".join(f"FROM bench-base:1 AS s{n}\nENV SALT=0\nRUN sleep 1 && echo {n} > /out{n}\n" for n in range(6))
    dockerfile(folder, stages + "FROM bench-base:1\n" + "".join(f"COPY --from=s{n} /out{n} /\n" for n in range(6)))


def many(folder: Path) -> None:
    for number in range(500):
        inner = folder / "src" / f"p{number // 25}" / f"d{number}"
        inner.mkdir(parents=True)
        for file in range(100):
            (inner / f"f{file}.txt").write_text(f"{number} {file}\n" * 40)
    dockerfile(folder, "FROM bench-base:1\nENV SALT=0\nCOPY . /src\nRUN echo done > /done\n")


def edit_one(folder: Path, run: int) -> None:
    (folder / "src" / "p3" / "d80" / "f7.txt").write_text(f"edited {run} {os.getpid()}\n")


def cold(folder: Path) -> None:
    for number in range(50):
        inner = folder / "src" / f"d{number}"
        inner.mkdir(parents=True)
        for file in range(100):
            (inner / f"f{file}.txt").write_text(f"{number} {file}\n" * 100)
    shutil.copytree("/usr/share", folder / "share", symlinks=True, ignore_dangling_symlinks=True, ignore=shutil.ignore_patterns("polkit-1"))
    dockerfile(
        folder,
        """
        FROM bench-base:1
        ENV SALT=0
        RUN echo $SALT > /salt
        COPY src /src
        RUN dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null
        COPY share /usr/share
        """,
    )


CASES = [
    Case("ten-same", "ten steps, nothing changed", ten, nothing),
    Case("ten-edit", "ten steps, one file edited", ten, edit_dir2),
    Case("run-true", "20 x RUN true", twenty, salted),
    Case("parallel", "six parallel one-second stages", six, salted),
    Case("50k-same", "50,000-file context, nothing changed", many, nothing, 3),
    Case("50k-edit", "50,000-file context, one file edited", many, edit_one, 3),
    Case("cold", "cold: 5,000-file COPY, 200 MB RUN, copy of /usr/share", cold, salted, 2),
]


@dataclass(frozen=True)
class Peer:
    name: str
    build: Callable[[Path], list[str]]
    environment: dict[str, str]

    def time(self, folder: Path) -> float:
        start = time.perf_counter()
        done = subprocess.run(self.build(folder), env={**os.environ, **self.environment}, capture_output=True, check=False)
        took = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{self.name} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')[-2000:]}")
        return took


def base_tar(folder: Path) -> Path:
    root = folder / "base"
    for name in ("bin", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    target = folder / "base.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(target), "."], check=True)
    return target


@contextmanager
def peers(wanted: list[str], state: Path, program: str) -> Iterator[list[Peer]]:
    tar = base_tar(state)
    found: list[Peer] = []
    with ExitStack() as stack:
        if "lamina" in wanted:
            environment = {"LAMINA_ROOT": str(state / "lamina")}
            subprocess.run(
                [program, "import", str(tar), "bench-base:1"], env={**os.environ, **environment}, check=True, capture_output=True
            )
            found.append(Peer("lamina", lambda d: [program, "build", "--progress=plain", "-t", f"b-{d.name}", str(d)], environment))
        missing = dockerd.why_not()
        if missing and {"buildkit", "classic"} & set(wanted):
            print(f"left out: docker ({missing})")
        elif {"buildkit", "classic"} & set(wanted):
            daemon = stack.enter_context(dockerd.daemon(parent=state))
            daemon.docker("import", str(tar), "bench-base:1")
            for name, switch in (("buildkit", "1"), ("classic", "0")):
                if name in wanted:
                    environment = {"DOCKER_HOST": f"unix://{daemon.socket}", "DOCKER_BUILDKIT": switch, "BUILDKIT_PROGRESS": "plain"}
                    found.append(
                        Peer(
                            name, lambda d, n=name: [dockerd.CLIENT, "build", "--network=host", "-t", f"{n}-{d.name}", str(d)], environment
                        )
                    )
        if "buildah" in wanted:
            if shutil.which("buildah"):
                common = [
                    "buildah",
                    "--root",
                    str(state / "buildah"),
                    "--runroot",
                    str(state / "buildah-run"),
                    "--storage-driver",
                    "overlay",
                ]
                stack.callback(shutil.rmtree, state / "buildah", ignore_errors=True)
                container = subprocess.run([*common, "from", "scratch"], capture_output=True, text=True, check=True).stdout.strip()
                subprocess.run([*common, "add", "-q", container, str(tar), "/"], check=True, capture_output=True)
                subprocess.run([*common, "commit", "-q", container, "localhost/bench-base:1"], check=True, capture_output=True)
                found.append(
                    Peer(
                        "buildah",
                        lambda d: [*common, "build", "--layers", "--isolation=chroot", "--network=host", "-t", f"bh-{d.name}", str(d)],
                        {},
                    )
                )
            else:
                print("left out: buildah (not installed; make test-deps)")
        yield found


_PAUSE = 0.3  # seconds for what a daemon does after its answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="timed runs of each case (default 5)")
    parser.add_argument("-k", default="", help="only cases whose name holds this word")
    parser.add_argument("--peers", default="lamina,buildkit,classic,buildah")
    parser.add_argument("--state", default="/var/tmp", help="folder below which every peer keeps its state")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--program", type=os.path.abspath, default=str(Path(sys.executable).with_name("lamina")), help="the lamina that is measured"
    )
    options = parser.parse_args()
    if not Path("/bin/busybox").exists():
        sys.exit("the bench needs /bin/busybox (Debian: busybox-static; make test-deps)")
    state = Path(tempfile.mkdtemp(prefix="lamina-bench-", dir=options.state))
    results: dict[str, dict[str, float]] = {}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, medians of {options.n} (of the slow cases of 3 or 2) in seconds\n"
    )
    try:
        with peers(options.peers.split(","), state, options.program) as running:
            names = [p.name for p in running]
            print(f"{'case':56}" + "".join(f"{n:>10}" for n in names) + "   lamina is")
            for case in CASES:
                if options.k not in case.name:
                    continue
                folders = {}
                for peer in running:
                    folders[peer.name] = folder = state / f"{peer.name}-{case.name}"
                    folder.mkdir()
                    case.make(folder)
                    peer.time(folder)  # the first build fills the cache
                if case.change is nothing or case.change in (edit_one, edit_dir2):
                    time.sleep(2.1)  # past every stat cache's racy window, as in life
                    for peer in running:
                        peer.time(folders[peer.name])
                times: dict[str, list[float]] = {name: [] for name in names}
                for number in range(min(options.n, case.runs)):
                    for peer in running:  # in turns: what else the machine does then hits all alike
                        case.change(folders[peer.name], number)
                        time.sleep(_PAUSE)
                        times[peer.name].append(peer.time(folders[peer.name]))
                row = {name: statistics.median(found) for name, found in times.items()}
                for folder in folders.values():
                    shutil.rmtree(folder)
                results[case.name] = row
                own = row.get("lamina")
                ratios = ", ".join(f"{own / t:.2f} x {n}" for n, t in row.items() if own and n != "lamina")
                print(f"{case.title:56}" + "".join(f"{row[n]:10.3f}" for n in names) + f"   {ratios}", flush=True)
        program = options.program
        used = []
        for _ in range(options.n):
            before = os.times()
            subprocess.run([program, "--version"], check=True, capture_output=True)
            after = os.times()
            used.append(after.children_user + after.children_system - before.children_user - before.children_system)
        print(f"\nlamina --version: {statistics.median(used) * 1000:.0f} ms CPU")
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
