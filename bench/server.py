"""`lamina serve` against dockerd in one run: the same docker CLI, the same images, one after the other; medians and ratios.

    bench/server.py [-n RUNS] [-k WORD] [--size MB] [--state DIR] [--json FILE]

dockerd is one of our own (data-root, exec-root, pidfile, socket below --state), with its bridge in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lamina.testing import bases, dockerd

LAMINA = [sys.executable, "-m", "lamina"]
ENVIRONMENT = {**os.environ, "DOCKER_BUILDKIT": "0"}
Figures = dict[str, object]


def docker(host: str, *arguments: str, stdin: bytes | None = None) -> bytes:
    done = subprocess.run([dockerd.CLIENT, "-H", host, *arguments], input=stdin, capture_output=True, check=False, env=ENVIRONMENT)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments)} at {host}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def listens(place: Path) -> bool:
    """Whether the engine answers a ping there."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(place))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            return b" 200 " in client.recv(4096)
        except OSError:
            return False


@contextmanager
def lamina(state: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(address, process); it answers."""
    place = state / "lamina.sock"
    process = subprocess.Popen(
        [*LAMINA, "--root", str(state / "root"), "serve", "--host", f"unix://{place}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not listens(place):
            if process.poll() is not None:
                raise SystemExit("lamina serve did not start")
            time.sleep(0.002)
        yield f"unix://{place}", process
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> float:
    """MB of a process and of those below it."""
    pids, found = [pid], 0.0
    for each in pids:
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                found += int(line.split()[1]) / 1024
        pids += [int(child) for task in Path(f"/proc/{each}/task").iterdir() for child in (task / "children").read_text().split()]
    return found


def start(state: Path, runs: int) -> Figures:
    seconds, memory = [], []
    for _ in range(runs):
        began = time.perf_counter()
        with lamina(state) as (_, process):
            seconds.append(time.perf_counter() - began)
            memory.append(
                next(
                    int(line.split()[1]) / 1024
                    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    if line.startswith("VmRSS")
                )
            )
    return {"seconds": statistics.median(seconds), "rss_mb": statistics.median(memory)}


def against(hosts: dict[str, str], runs: int, act: Callable[[str], object]) -> Figures:
    """Interleaved; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in hosts}
    for run in range(runs + 1):
        for name, host in hosts.items():
            seconds = timed(lambda host=host: act(host))
            if run:
                found[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {**{f"{name}_seconds": value for name, value in medians.items()}, "ratio": medians["lamina"] / medians["dockerd"]}


def cached_build(hosts: dict[str, str], runs: int, state: Path) -> Figures:
    folder = state / "context"
    folder.mkdir()
    (folder / "file").write_text("x" * 100_000)
    lines = ["FROM busybox", "WORKDIR /app", "COPY file /app/", "RUN echo 1 > /1", "RUN echo 2 > /2", "ENV A=1", 'CMD ["true"]']
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    return against(hosts, runs, lambda host: docker(host, "build", "-q", "-t", "cached", str(folder)))


def many(host: str, count: int) -> Figures:
    """So many `docker run` at a time: none may be lost."""
    began = time.perf_counter()
    clients = [
        subprocess.Popen(
            [dockerd.CLIENT, "-H", host, "run", "--rm", "--network", "none", "busybox", "echo", f"number {number}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        )
        for number in range(count)
    ]  # fmt: skip
    lost = [client.communicate() for client in clients]
    good = sum(
        out == f"number {number}\n".encode() and client.returncode == 0 for number, (client, (out, _)) in enumerate(zip(clients, lost))
    )
    left = docker(host, "ps", "-aq").split()
    return {"seconds": time.perf_counter() - began, "good": good, "of": count, "left": len(left)}


def listeners(host: str, process: subprocess.Popen[bytes], count: int) -> Figures:
    """Idle clients of /events."""
    before = resident(process.pid)
    clients = []
    for _ in range(count):
        client = socket.socket(socket.AF_UNIX)
        client.connect(host.removeprefix("unix://"))
        client.sendall(b"GET /v1.41/events HTTP/1.1\r\nHost: x\r\n\r\n")
        clients.append(client)
    for client in clients:
        assert b" 200 " in client.recv(4096)
    after = resident(process.pid)
    for client in clients:
        client.close()
    return {"clients": count, "mb": after - before}


def load_and_save(hosts: dict[str, str], runs: int, state: Path, megabytes: int) -> dict[str, Figures]:
    folder = state / "big"
    folder.mkdir()
    for number in range(4):
        with open(folder / f"f{number}", "wb") as file:
            for _ in range(megabytes // 4):
                file.write(os.urandom(1 << 20))
    (folder / "Dockerfile").write_text("FROM scratch\n" + "".join(f"COPY f{number} /\n" for number in range(4)) + 'CMD ["x"]\n')
    docker(hosts["lamina"], "build", "-q", "-t", "big", str(folder))
    archive = state / "big.tar"
    docker(hosts["lamina"], "save", "-o", str(archive), "big")
    shutil.rmtree(folder)
    docker(hosts["lamina"], "rmi", "-f", "big")
    out = state / "out.tar"

    def load(host: str) -> None:
        docker(host, "load", "-q", "-i", str(archive))

    def save(host: str) -> None:
        docker(host, "save", "-o", str(out), "big")

    found: dict[str, dict[str, list[float]]] = {"load": {name: [] for name in hosts}, "save": {name: [] for name in hosts}}
    for _ in range(runs):
        for name, host in hosts.items():
            os.sync()
            found["load"][name].append(timed(lambda host=host: load(host)))
            os.sync()
            found["save"][name].append(timed(lambda host=host: save(host)))
            docker(host, "rmi", "-f", "big")
    medians = {what: {name: statistics.median(values) for name, values in each.items()} for what, each in found.items()}
    return {
        f"{what} of {megabytes} MB": {
            **{f"{name}_seconds": value for name, value in each.items()},
            "ratio": each["lamina"] / each["dockerd"],
        }
        for what, each in medians.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=11, metavar="RUNS")
    parser.add_argument("-k", default="", metavar="WORD", help="only cases whose name has it")
    parser.add_argument("--size", type=int, default=1024, metavar="MB", help="of the image that is loaded and saved")
    parser.add_argument("--state", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    missing = dockerd.why_not() or bases.why_not()
    if missing:
        raise SystemExit(missing)
    state = Path(tempfile.mkdtemp(prefix="lamina-bench-server-", dir=options.state))
    found: dict[str, Figures] = {}

    def case(name: str, act: Callable[[], Figures]) -> None:
        if options.k in name:
            found[name] = act()
            print(
                f"{name:24} "
                + "  ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in found[name].items()),
                flush=True,
            )

    try:
        base = bases.busybox_tar(state / "base.tar")
        case("start", lambda: start(state, options.n))
        with ExitStack() as stack:
            host, process = stack.enter_context(lamina(state))
            hosts = {
                "lamina": host,
                "dockerd": f"unix://{stack.enter_context(dockerd.daemon(parent=options.state, before=('unshare', '--net', '--'), bridge=True)).socket}",
            }
            for each in hosts.values():
                docker(each, "import", str(base), "busybox")
            case("version", lambda: against(hosts, options.n, lambda each: docker(each, "version")))
            case("run", lambda: against(hosts, options.n, lambda each: docker(each, "run", "--rm", "busybox", "true")))
            case("cached build", lambda: cached_build(hosts, options.n, state))
            case("200 runs at a time", lambda: many(hosts["lamina"], 200))
            case("idle /events", lambda: listeners(hosts["lamina"], process, 1000))
            if options.k in "load and save":
                for name, figures in load_and_save(hosts, max(3, options.n // 4), state, options.size).items():
                    case(name, lambda figures=figures: figures) if options.k in name else found.update({name: figures})
    finally:
        shutil.rmtree(state, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
