"""`make bench-transfer`: an image of 1 GB to a registry on loopback and back, by lamina and by `skopeo copy`, in one run.

    bench/transfer.py [-n ROUNDS] [--mib SIZE] [--state DIR] [--json FILE] [-k WORD]

The image is an OCI layout with layers of several sizes, compressed before: nine tenths random bytes, the rest text. Every push goes to a
docker-registry that was started for it and is empty, so that nobody finds, mounts or skips anything; pulls come from one that has the
image. A push is `skopeo copy oci:A docker://R`, `lamina copy oci:A docker://R` (the same work) and `lamina push` from lamina's store,
which has the same compressed layers. A pull is `skopeo copy docker://R oci:B`, `lamina copy docker://R oci:B` and `lamina pull` into an
empty store. Programs take turns; each is timed as a whole process, with its own processor time and largest resident set.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lamina.testing.registry import docker_registry

_LAYERS = (0.35, 0.25, 0.15, 0.10, 0.05, 0.05, 0.03, 0.02)  # shares of the whole
_NAME = "team/app"


class Run(msgspec.Struct, frozen=True):
    seconds: float
    cpu: float  # user and system, of the process
    memory: float  # MiB


def run(arguments: Sequence[str], environment: dict[str, str]) -> Run:
    """RuntimeError when it fails."""
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        actions = [(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
        pid = os.posix_spawn(arguments[0], list(arguments), {**os.environ, **environment}, file_actions=actions)
        _, status, used = os.wait4(pid, 0)
        took = time.perf_counter() - begun
        if status:
            said.seek(0)
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    return Run(took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def make_image(folder: Path, mib: int) -> int:
    """An OCI layout with the image `1`; returns the bytes of its layers."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    dice = random.Random(1)
    words = [bytes(dice.choices(b"abcdefghijklmnopqrstuvwxyz", k=dice.randrange(2, 11))) for _ in range(2000)]
    layers, plain = [], []
    for number, share in enumerate(_LAYERS):
        made = folder / "layer"
        left = int(mib * share * (1 << 20))
        digest = hashlib.sha256()
        with made.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed:

            class Out(io.RawIOBase):
                def write(self, data: object) -> int:
                    digest.update(data)  # type: ignore[arg-type]  # noqa: B023  # bytes, used at once
                    return packed.write(data)  # type: ignore[arg-type]

            with tarfile.open(fileobj=Out(), mode="w|", bufsize=1 << 20) as tar:
                for file in range(8):
                    size = left // 8
                    random_part = dice.randbytes(size)
                    text = b" ".join(dice.choices(words, k=size // 20))
                    info = tarfile.TarInfo(f"layer{number}/file{file}")
                    info.size = len(random_part) + len(text)
                    tar.addfile(info, io.BytesIO(random_part + text))
        layers.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **keep(blobs, made)})
        plain.append(f"sha256:{digest.hexdigest()}")
    config = document(blobs, {"architecture": _architecture(), "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": plain}, "history": [{"created_by": f"layer {n}"} for n in range(len(plain))]})  # fmt: skip  # one document
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **config}
    top = document(blobs, {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers})
    entry = {"mediaType": kind, **top, "annotations": {"org.opencontainers.image.ref.name": "1"}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return sum(int(layer["size"]) for layer in layers)


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def keep(blobs: Path, made: Path) -> dict[str, str | int]:
    with made.open("rb") as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()
    size = made.stat().st_size
    made.rename(blobs / name)
    return {"digest": f"sha256:{name}", "size": size}


def document(blobs: Path, value: object) -> dict[str, str | int]:
    data = json.dumps(value).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"digest": f"sha256:{name}", "size": len(data)}


@contextmanager
def empty(state: Path, name: str) -> Iterator[Path]:
    folder = state / name
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def push(arguments: Sequence[str], state: Path, environment: dict[str, str]) -> Run:
    with empty(state, "target") as folder, docker_registry(folder) as host:
        return run([word.replace("REGISTRY", host) for word in arguments], environment)


def pull(arguments: Sequence[str], host: str, state: Path) -> Run:
    with empty(state, "target") as folder:
        words = [word.replace("REGISTRY", host).replace("TARGET", str(folder / "out")) for word in arguments]
        return run(words, {"LAMINA_ROOT": str(folder / "store")})


def show(name: str, runs: dict[str, list[Run]], bytes_: int) -> dict[str, dict[str, float]]:
    found = {}
    own = runs["skopeo copy"]
    for who, each in runs.items():
        median = statistics.median(one.seconds for one in each)
        speeds = statistics.median(one.seconds for one in own) / median
        best = min(one.seconds for one in own) / min(one.seconds for one in each)
        memory = max(one.memory for one in each)
        cpu = statistics.median(one.cpu for one in each)
        rate = bytes_ / median / 1e6
        print(f"{name:5} {who:14} {median:7.2f} s {rate:7.0f} MB/s   CPU {cpu:6.2f} s   {memory:5.0f} MiB   speed {speeds:.2f} (best of each {best:.2f}) x skopeo", flush=True)  # fmt: skip  # one line
        found[who] = {"seconds": median, "best": min(one.seconds for one in each), "cpu": cpu, "memory": memory, "speed": speeds}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("-k", default="", help="only push or pull")
    parser.add_argument("--mib", type=int, default=1000, help="size of the image's random part (default 1000)")
    parser.add_argument("--state", default="/var/tmp")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    skopeo = shutil.which("skopeo")
    if skopeo is None or shutil.which("docker-registry") is None:
        sys.exit("this bench needs skopeo and docker-registry (make test-deps)")
    lamina = str(Path(sys.executable).with_name("lamina"))
    state = Path(tempfile.mkdtemp(prefix="lamina-transfer-", dir=options.state))
    results = {}
    try:
        layout = state / "layout"
        with ProcessPoolExecutor(1) as elsewhere:  # what a program's parent needed counts as its largest resident set
            size = elsewhere.submit(make_image, layout, options.mib).result()
        print(f"{os.cpu_count()} cores; {len(_LAYERS)} layers, {size / 1e6:.0f} MB compressed; medians of {options.n}", flush=True)
        store = {"LAMINA_ROOT": str(state / "store")}
        run([lamina, "copy", f"oci:{layout}:1", "app:1"], store)
        policy = ["--insecure-policy", "copy", "--quiet"]
        pushes = {
            "skopeo copy": [skopeo, *policy, "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://REGISTRY/{_NAME}:1"],
            "lamina copy": [lamina, "copy", f"oci:{layout}:1", f"docker://REGISTRY/{_NAME}:1"],
            "lamina push": [lamina, "push", "app:1", f"REGISTRY/{_NAME}:1"],
        }
        pulls = {
            "skopeo copy": [skopeo, *policy, "--src-tls-verify=false", f"docker://REGISTRY/{_NAME}:1", "oci:TARGET:1"],
            "lamina copy": [lamina, "copy", f"docker://REGISTRY/{_NAME}:1", "oci:TARGET:1"],
            "lamina pull": [lamina, "pull", f"REGISTRY/{_NAME}:1"],
        }
        if options.k in "push":
            runs: dict[str, list[Run]] = {name: [] for name in pushes}
            for number in range(options.n):
                for name in list(pushes)[number % 3 :] + list(pushes)[: number % 3]:
                    runs[name].append(push(pushes[name], state, store))
            results["push"] = show("push", runs, size)
        if options.k in "pull":
            with empty(state, "registry") as folder, docker_registry(folder) as host:
                run([word.replace("REGISTRY", host) for word in pushes["lamina push"]], store)
                runs = {name: [] for name in pulls}
                for number in range(options.n):
                    for name in list(pulls)[number % 3 :] + list(pulls)[: number % 3]:
                        runs[name].append(pull(pulls[name], host, state))
            results["pull"] = show("pull", runs, size)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
