"""`make bench-clean-machine`: machine A builds, machine B wants the same image, with lamina's shared caches and in docker's two ways.

    bench/clean_machine.py [-n ROUNDS] [--mib SIZE] [--state DIR] [--json FILE]

The image has SIZE (500) MiB in three COPY steps, one small COPY of source code and a RUN. In each round the source code changes; A builds,
and B gets the image, once where B has the version before ("update") and once where B has nothing but the base image ("empty"):

    lamina oci, lamina dir    A: lamina build --cache-to PLACE; B: lamina build --cache-from PLACE, of the same context
    oci, no chunks            the same with chunks=false: large layers go whole
    save | load               A: docker build; then docker save on A into docker load on B
    registry cache            A: docker build with BuildKit's inline cache, docker push; B: docker build --cache-from, then
                              B has the image as `docker pull` would have it
    type=registry             the same with the cache that a newer BuildKit (dockerd 26, docker-buildx) exports of its own, mode=max; left
                              out where they are not here

Both machines are two LAMINA_ROOTs and two dockerds with their own state; the registry is docker-registry on loopback. Told are seconds of A
(build and hand over) and of B, the bytes that came to lie in the cache, and the bytes that `lamina plan` predicts and B fetches. Every run
of lamina on B is checked: `plan` says that nothing runs, and nothing does. Everybody takes turns in each round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from lamina.testing import buildx, dockerd
from lamina.testing.registry import docker_registry

_SHARES = (0.5, 0.3, 0.2)
_BASE = "bench-base:1"
_LAMINA = str(Path(sys.executable).with_name("lamina"))


class Run(msgspec.Struct, frozen=True):
    a: float  # seconds
    b: float
    stored: int  # bytes
    fetched: int  # bytes; -1: not measured

    @property
    def whole(self) -> float:
        return self.a + self.b


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) if folder.exists() else 0


def lamina(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([_LAMINA, *arguments], env={**os.environ, "LAMINA_ROOT": str(root)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"lamina {' '.join(arguments)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done


def make_context(folder: Path, mib: int) -> None:
    dice = random.Random(7)
    for number, share in enumerate(_SHARES):
        (folder / f"big{number}").mkdir(parents=True)
        for file in range(10):
            size = int(mib * share * (1 << 20)) // 10
            (folder / f"big{number}" / f"f{file}").write_bytes(dice.randbytes(size * 3 // 4) + b"all the same words " * (size // 4 // 19))
    (folder / "src").mkdir()
    for file in range(20):
        (folder / "src" / f"f{file}").write_text(f"file {file}\n" * 200)
    copies = "".join(f"COPY big{number} /big{number}\n" for number in range(len(_SHARES)))
    (folder / "Dockerfile").write_text(f"FROM {_BASE}\n{copies}COPY src /src\nRUN cat /src/* > /sum\n")


def make_base(state: Path) -> Path:
    root = state / "base"
    for name in ("bin", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "cat"):
        (root / "bin" / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", str(root), "-cf", str(state / "base.tar"), "."], check=True)
    return state / "base.tar"


class Lamina:
    """`spec`: the cache; `lies`: where its bytes come to lie."""

    def __init__(self, name: str, state: Path, tar: Path, spec: str, lies: Path) -> None:
        self.name, self._tar, self._spec, self._lies = name, tar, spec, lies
        self._a, self._b, self._count = state / f"{name}-a", state / f"{name}-b", 0
        self._state = state
        for root in (self._a, self._b):
            lamina(root, "import", str(tar), _BASE)

    def run(self, context: Path, *, empty: bool) -> Run:
        before = size_of(self._lies)
        common = ["--progress=plain", "-t", "app:1", str(context)]
        a = timed(lambda: lamina(self._a, "build", "--cache-to", self._spec, *common))
        stored = size_of(self._lies) - before
        root = self._b
        if empty:
            self._count += 1
            root = self._state / f"{self.name}-empty-{self._count}"
            lamina(root, "import", str(self._tar), _BASE)
        plan = json.loads(lamina(root, "plan", "--json", "--cache-from", self._spec, str(context)).stdout)
        ran = [step["text"] for step in plan["steps"] if step["verdict"] not in ("hit", "none")]
        if ran:
            raise RuntimeError(f"{self.name}: the plan on B says that these would run: {ran}")
        said: list[str] = []
        here = size_of(root / "blobs")

        def build() -> None:
            said.append(lamina(root, "build", "--cache-from", self._spec, *common).stderr)

        b = timed(build)
        if ", 0 ran" not in said[0]:
            raise RuntimeError(f"{self.name}: something ran on B:\n{said[0]}")
        fetched = size_of(root / "blobs") - here
        if fetched > plan["fetch_bytes"] + 200_000:
            raise RuntimeError(f"{self.name}: {fetched} bytes came, the plan said {plan['fetch_bytes']}")
        if empty:
            shutil.rmtree(root)
        return Run(a, b, stored, plan["fetch_bytes"])


class Docker:
    def __init__(self, stack: ExitStack, state: Path, tar: Path, host: str, lies: Path) -> None:
        self.a = stack.enter_context(dockerd.daemon(parent=state))
        self.b = stack.enter_context(dockerd.daemon(parent=state))
        self.a.docker("import", str(tar), _BASE)
        self.b.docker("load", stdin=self.a.docker("save", _BASE).stdout)
        self.host, self.lies = host, lies

    def build(self, daemon: dockerd.Daemon, context: Path, name: str, *more: str) -> None:
        daemon.docker("build", "--network=host", "--build-arg", "BUILDKIT_INLINE_CACHE=1", "-t", name, *more, str(context))

    def forget(self) -> None:
        """B has nothing but the base image."""
        self.b.docker("rmi", "-f", f"{self.host}/app:saved", f"{self.host}/app:pushed", check=False)
        self.b.docker("image", "prune", "-f")
        self.b.docker("builder", "prune", "-af")


class SaveLoad:
    name = "save | load"

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    def run(self, context: Path, *, empty: bool) -> Run:
        docker, name = self._docker, f"{self._docker.host}/app:saved"
        if empty:
            docker.forget()
        a = timed(lambda: docker.build(docker.a, context, name))
        moved = 0

        def pipe() -> None:
            nonlocal moved
            with subprocess.Popen([dockerd.CLIENT, "-H", f"unix://{docker.a.socket}", "save", name], stdout=subprocess.PIPE) as save:
                load = subprocess.Popen([dockerd.CLIENT, "-H", f"unix://{docker.b.socket}", "load", "-q"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip  # one line
                assert save.stdout is not None
                assert load.stdin is not None
                while piece := save.stdout.read(1 << 20):
                    moved += len(piece)
                    load.stdin.write(piece)
                load.stdin.close()
                if load.wait() or save.wait():
                    raise RuntimeError("docker save | docker load failed")

        b = timed(pipe)
        return Run(a, b, 0, moved)


class RegistryCache:
    name = "registry cache"

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    def run(self, context: Path, *, empty: bool) -> Run:
        docker, name = self._docker, f"{self._docker.host}/app:pushed"
        if empty:
            docker.forget()
        before = size_of(docker.lies)

        def on_a() -> None:
            docker.build(docker.a, context, name)
            docker.a.docker("push", name)

        a = timed(on_a)
        stored = size_of(docker.lies) - before
        b = timed(lambda: docker.build(docker.b, context, name, "--cache-from", name))
        return Run(a, b, stored, -1)


class NewerCache:
    """dockerd 26 and buildx on both machines, with images in containerd: only so does its BuildKit export such a cache."""

    name = "type=registry"

    def __init__(self, stack: ExitStack, state: Path, tar: Path, host: str, lies: Path) -> None:
        self._a, self._b = (stack.enter_context(dockerd.newer(state, parent=state)) for _ in range(2))
        self._a.docker("import", str(tar), _BASE)
        self._b.docker("load", stdin=self._a.docker("save", _BASE).stdout)
        self._name, self._lies = f"{host}/newer:cache", lies
        self._clients = [buildx.Client("buildx", f"unix://{one.socket}", state / f"home{n}") for n, one in enumerate((self._a, self._b))]

    def run(self, context: Path, *, empty: bool) -> Run:
        if empty:
            self._b.docker("rmi", "-f", "app:1", check=False)
            self._b.docker("image", "prune", "-f")
            self._b.docker("builder", "prune", "-af")
        before = size_of(self._lies)
        a = timed(lambda: self._build(0, context, "--cache-to", f"type=registry,ref={self._name},mode=max"))
        stored = size_of(self._lies) - before
        b = timed(lambda: self._build(1, context, "--cache-from", f"type=registry,ref={self._name}"))
        return Run(a, b, stored, -1)

    def _build(self, machine: int, context: Path, *more: str) -> None:
        words = ["build", "--network=host", "--provenance=false", "-t", "app:1", *more, "."]
        done = self._clients[machine].run(words, cwd=context, timeout=600)
        if done.returncode:
            raise RuntimeError(f"buildx {' '.join(words)} failed:\n{(done.stdout + done.stderr)[-2000:].decode(errors='replace')}")


def show(runs: dict[str, list[Run]], title: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    peers = [name for name in (SaveLoad.name, RegistryCache.name, NewerCache.name) if name in runs]
    print(f"\n{title}\n{'':16}{'A':>9}{'B':>9}{'A + B':>9}{'stored':>11}{'fetched':>11}   A + B (B alone) of it against", flush=True)
    for name, each in runs.items():
        a, b, whole = (statistics.median(part) for part in ([one.a for one in each], [one.b for one in each], [one.whole for one in each]))
        stored, fetched = statistics.median(one.stored for one in each), statistics.median(one.fetched for one in each)
        words = []
        for peer in peers if name not in peers else ():
            both = statistics.median(one.whole for one in runs[peer])
            alone = statistics.median(one.b for one in runs[peer])
            least = min(one.whole for one in each) / min(one.whole for one in runs[peer])
            words.append(f"{peer}: {whole / both:.2f} x, least {least:.2f} x ({b / alone:.2f} x)")
        shown = f"{fetched / 1e6:8.1f} MB" if fetched >= 0 else "          -"
        print(f"{name:16}{a:7.2f} s{b:7.2f} s{whole:7.2f} s{stored / 1e6:8.1f} MB{shown}   {'; '.join(words)}", flush=True)
        found[name] = {"a": a, "b": b, "whole": whole, "stored": stored, "fetched": fetched}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--mib", type=int, default=500)
    parser.add_argument("--state", default="/var/tmp")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    missing = dockerd.why_not() or (None if shutil.which("docker-registry") else "docker-registry is not installed")
    if missing or not Path("/bin/busybox").exists():
        sys.exit(
            f"this bench needs a dockerd of its own, docker-registry and /bin/busybox: {missing or 'no /bin/busybox'} (make test-deps)"
        )
    state = Path(tempfile.mkdtemp(prefix="lamina-clean-", dir=options.state))
    try:
        with ExitStack() as stack:
            tar, context = make_base(state), state / "context"
            make_context(context, options.mib)
            (state / "registry").mkdir()
            lies = state / "registry" / "registry"
            host = stack.enter_context(docker_registry(state / "registry"))
            docker = Docker(stack, state, tar, host, lies)
            missing = dockerd.why_not_newer() or (None if buildx.buildx() else "docker-buildx is not here (make test-deps)")
            if missing:
                print(f"{NewerCache.name}: left out, {missing}", file=sys.stderr)
            ways: Sequence[Lamina | SaveLoad | RegistryCache | NewerCache] = (
                Lamina("lamina oci", state, tar, f"oci://{host}/cache", lies),
                Lamina("oci, no chunks", state, tar, f"oci://{host}/plain,chunks=false", lies),
                Lamina("lamina dir", state, tar, f"dir:{state / 'shared'}", state / "shared"),
                SaveLoad(docker),
                RegistryCache(docker),
                *(() if missing else (NewerCache(stack, state, tar, host, lies),)),
            )
            results: dict[str, dict[str, list[Run]]] = {"first": {}, "update": {}, "empty": {}}
            number = 0
            for kind, rounds in (("first", 1), ("update", options.n), ("empty", options.n)):
                for _ in range(rounds):
                    number += 1
                    for turn in range(len(ways)):
                        way = ways[(turn + number) % len(ways)]
                        (context / "src" / "f3").write_text(f"edited {number} for {way.name}\n")
                        try:
                            results[kind].setdefault(way.name, []).append(way.run(context, empty=kind == "empty"))
                        except RuntimeError as error:
                            if not isinstance(way, NewerCache):
                                raise
                            # its containerd collects what its BuildKit is unpacking, now and then
                            print(f"{way.name}: a round is left out: {str(error).strip().splitlines()[-1][:200]}", file=sys.stderr)
                results[kind] = {way.name: results[kind][way.name] for way in ways if results[kind].get(way.name)}
            print(f"{os.cpu_count()} cores, {options.mib} MiB, medians of {options.n}")
            titles = {
                "update": "a small layer changed, B has the version before",
                "empty": "a small layer changed, B has the base image only",
            }
            told = {kind: show(results[kind], title) for kind, title in titles.items()}
            if options.json:
                Path(options.json).write_text(json.dumps(told, indent=1) + "\n")
    finally:
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
