"""`make bench-lookups`: what a lookup costs with few and with many records in the backend.

    bench/lookups.py [--backends local,dir,http,oci,s3] [--sizes 100,10000,1000000] [-n ROUNDS] [--state DIR] [--json FILE]

Each size is a backend of its own; all sizes of a kind are asked in turn, round by round, so that what else the machine does meets all of
them. A round is a new client that looks up 64 keys that are there and 64 that are not, all at once and then each alone (as a build does),
and asks for the neighbours of 8 places. Records that are only there to be many are written in the backend's own format on disk:

    local  rows of the store's database            dir, http  folders with hard links to one file
    oci    docker-registry's folders; above 50,000 records one tag for each, a folder that names no manifest (a whole record has five tags
           or more, each some seven files and folders): 10^6 records would be 40 million files. What a lookup could depend on there is the
           number of tags, and listing them reads the names of these folders.
    s3     seaweedfs, through its API; sizes above --s3-most (default 30,000) are cut down to it

--state is on a tmpfs by default: 10^6 records are 3 million files, which a disk makes in minutes and removes in more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec

from lamina.cache.index import LocalRecords
from lamina.cache.record import CacheKey, Place, Record
from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.opening import open_cache
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.layer.flavour import Flavour
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport
from lamina.server.cacheapi import Access, CacheApi, Token
from lamina.server.cacheserver import CacheServer
from lamina.store.local import LocalStore
from lamina.store.memory import MemoryBlobs
from lamina.testing import seaweed
from lamina.testing.conformance.recordcache import key, record
from lamina.testing.registry import docker_registry

KEYS = 64
PLACES = 8
_FAR = 10**9  # keys of what is asked for; those of the crowd are below
_WHOLE = 50_000  # records of a registry that are made whole
_LINKS = 30_000  # names of one file
_ENVIRONMENT = {**seaweed.CREDENTIALS, "TOKEN": "all"}

Ask = Callable[[list[CacheKey]], int]
"""Looks up with a client that knows nothing yet; returns how many were found."""


class Backend(msgspec.Struct):
    """`size`: records that are really there. `near`: asks for the neighbours of a place; returns how many came."""

    kind: str
    size: int
    client: Callable[[], tuple[Ask, Callable[[Place], int], Callable[[], None]]]


def wanted() -> list[Record]:
    return [placed(number) for number in range(KEYS)]


def placed(number: int) -> Record:
    return record(_FAR + number, stage=f"s{number % PLACES}", position=number, text=f"RUN make {number}")


def place(number: int) -> Place:
    return Place("Dockerfile", f"s{number}", number, number + 1, "RUN make something else")


def crowd_key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


class Links:
    """Names of one file; a new copy from time to time, because file systems count."""

    def __init__(self, data: bytes, folder: Path) -> None:
        self._data, self._folder, self._count = data, folder, 0

    def at(self, target: str) -> None:
        source = self._folder / f"linked-{self._count // _LINKS}"
        if self._count % _LINKS == 0:
            source.write_bytes(self._data)
        self._count += 1
        os.link(source, target)


def fill_folder(root: Path, size: int) -> None:
    cache = SharedCache(DirectoryObjects(root), now=time.time)
    cache.publish([Publication(one) for one in wanted()], MemoryBlobs())
    links = Links(b"{}\n{}", root)
    for number in range(size - KEYS):
        folder = f"{root}/records/{crowd_key(number)}"
        os.mkdir(folder)
        os.mkdir(folder + "/main")
        links.at(f"{folder}/main/{number:064x}")


def fill_registry(root: Path, size: int) -> None:
    """Beside what a real client has published there."""
    repository = root / "registry/docker/registry/v2/repositories/team/cache"
    (tag, *_) = [each for each in (repository / "_manifests/tags").iterdir() if each.name.startswith("r.")]
    links = Links((tag / "current/link").read_bytes(), root)
    scope = tag.name.split(".")[2]
    for number in range(size - KEYS):
        name = crowd_key(number)
        tags = [f"r.{name[:40]}.{scope}.{name}", f"l.{name[:40]}.{scope}", f"k.{name[:40]}"]
        for one in tags if size <= _WHOLE else tags[:1]:
            folder = f"{repository}/_manifests/tags/{one}"
            os.mkdir(folder)
            if size <= _WHOLE:
                os.mkdir(folder + "/current")
                links.at(folder + "/current/link")


def fill_store(store: LocalStore, size: int) -> None:
    records = LocalRecords(store.database, store.now)
    for one in wanted():
        records.publish(one)
    doc = msgspec.json.encode(record(0))
    plain = key(0).encode()
    insert = "INSERT INTO records VALUES (?,?,?,?,?,?,?,?,NULL,?)"
    with store.database.write() as transaction:
        transaction.many(
            insert,
            (
                (f"{n:064x}", f"sha256:{(k := crowd_key(n))}", "Dockerfile", f"crowd{n % 500}", n % 40, k[:32], float(n), float(n), doc.replace(plain, b"sha256:" + k.encode()))
                for n in range(size - KEYS)
            ),
        )  # fmt: skip  # a row is a line


def fill_bucket(endpoint: str, prefix: str, size: int) -> None:
    from obstore.store import S3Store

    config = {"endpoint": endpoint, "access_key_id": "id", "secret_access_key": "s3cr3t-value", "region": "test"}
    store = S3Store(seaweed.BUCKET, prefix=prefix, config=config, client_options={"allow_http": True})  # type: ignore[arg-type]  # a TypedDict of these names
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda n: store.put(f"records/{crowd_key(n)}/main/{n:064x}", b"{}\n{}"), range(size - KEYS)):
            pass


def shared(spec: str) -> tuple[Ask, Callable[[Place], int], Callable[[], None]]:
    cache = open_cache(spec, now=lambda: 2000.0, environment=_ENVIRONMENT, client=lambda: RegistryClient(Transport()))
    return (
        lambda keys: sum(bool(answer.offers) for answer in cache.lookup(keys, quick=True).values()),
        lambda where: len(cache.neighbours(where, quick=True)),
        cache.close,
    )


def publish(spec: str) -> None:
    with open_cache(spec, now=time.time, environment=_ENVIRONMENT, client=lambda: RegistryClient(Transport())) as cache:
        cache.publish([Publication(one) for one in wanted()], MemoryBlobs())


@contextmanager
def backend(kind: str, size: int, folder: Path, s3: seaweed.Seaweed | None, servers: ExitStack) -> Iterator[Backend]:
    folder.mkdir()
    if kind == "local":
        store = servers.enter_context(LocalStore.open(folder / "store", Flavour("trusted"), now=time.time))
        fill_store(store, size)
        records = LocalRecords(store.database, store.now)
        yield Backend(
            kind, size, lambda: (lambda keys: len(records.lookup(keys)), lambda where: len(records.neighbours(where)), lambda: None)
        )
    elif kind in ("dir", "http"):
        fill_folder(folder, size)
        if kind == "dir":
            yield Backend(kind, size, lambda: shared(f"dir:{folder}"))
            return
        access = Access({"all": Token(hashlib.sha256(b"all").hexdigest(), write=("*",))})
        server = CacheServer(CacheApi(DirectoryObjects(folder), access), "127.0.0.1", 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Backend(kind, size, lambda: shared(f"http://127.0.0.1:{server.address[1]},token-env=TOKEN"))
        finally:
            server.stop()
            thread.join()
    elif kind == "oci":
        with docker_registry(folder) as host:
            publish(f"oci://{host}/team/cache")
            fill_registry(folder, size)
            yield Backend(kind, size, lambda: shared(f"oci://{host}/team/cache"))
    else:
        assert s3 is not None
        spec = f"s3://{seaweed.BUCKET}/n{size},endpoint={s3.endpoint}"
        publish(spec)
        fill_bucket(s3.endpoint, f"n{size}", size)
        yield Backend(kind, size, lambda: shared(spec))


def once(one: Backend) -> dict[str, float]:
    """Seconds of each kind of question."""
    hits, misses = [key(_FAR + n) for n in range(KEYS)], [key(2 * _FAR + n) for n in range(KEYS)]
    took: dict[str, float] = {}

    def timed(name: str, work: Callable[[Ask, Callable[[Place], int]], int], expected: int) -> None:
        ask, near, close = one.client()
        begun = time.perf_counter()
        found = work(ask, near)
        took[name] = time.perf_counter() - begun
        close()
        if found != expected:
            raise RuntimeError(f"{one.kind} with {one.size} records: {name} found {found}, not {expected}")

    timed("64 hits", lambda ask, near: ask(hits), KEYS)
    timed("64 misses", lambda ask, near: ask(misses), 0)
    timed("64 hits, each alone", lambda ask, near: sum(ask([each]) for each in hits), KEYS)
    timed("64 misses, each alone", lambda ask, near: sum(ask([each]) for each in misses), 0)
    timed("neighbours of 8 places", lambda ask, near: sum(min(1, near(place(n))) for n in range(PLACES)), PLACES)
    return took


def measure(kind: str, sizes: list[int], rounds: int, state: Path) -> dict[str, dict[str, list[float]]]:
    """Question -> size -> (median, minimum) in seconds."""
    times: dict[str, dict[int, list[float]]] = {}
    with ExitStack() as servers:
        s3 = None
        if kind == "s3":
            (state / "weed").mkdir()
            s3 = servers.enter_context(seaweed.seaweed(state / "weed"))
        backends = []
        for size in sizes:
            begun = time.perf_counter()
            backends.append(servers.enter_context(backend(kind, size, state / f"{kind}-{size}", s3, servers)))
            print(f"  {kind}: {size} records written in {time.perf_counter() - begun:.0f} s", flush=True)
        for number in range(rounds + 1):
            for one in backends:
                for name, seconds in once(one).items():
                    if number:  # the first round opens files and connections for the first time
                        times.setdefault(name, {}).setdefault(one.size, []).append(seconds)
    return {name: {str(size): [statistics.median(each), min(each)] for size, each in row.items()} for name, row in times.items()}


def show(kind: str, found: dict[str, dict[str, list[float]]]) -> None:
    for name, row in found.items():
        sizes = list(row)
        cells = "".join(f"{int(size):>9}: {row[size][0] * 1000:7.1f} ms" for size in sizes)
        steps = ", ".join(
            f"{row[after][0] / row[before][0]:.2f} ({row[after][1] / row[before][1]:.2f})" for before, after in pairwise(sizes)
        )
        print(f"{kind:6} {name:24}{cells}   step: {steps} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="local,dir,http,oci,s3")
    parser.add_argument("--sizes", default="100,10000,1000000")
    parser.add_argument("--s3-most", type=int, default=30_000)
    parser.add_argument("-n", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--state", default="/dev/shm" if Path("/dev/shm").is_dir() else "/var/tmp")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    results = {}
    print("medians; steps as ratios of medians (of minima)", flush=True)
    for kind in options.backends.split(","):
        missing = seaweed.why_not() if kind == "s3" else None
        if missing or (kind == "oci" and shutil.which("docker-registry") is None):
            print(f"left out: {kind} ({missing or 'docker-registry is not installed; make test-deps'})")
            continue
        sizes = sorted({max(KEYS, min(int(each), options.s3_most if kind == "s3" else 10**9)) for each in options.sizes.split(",")})
        state = Path(tempfile.mkdtemp(prefix="lamina-lookups-", dir=options.state))
        try:
            results[kind] = measure(kind, sizes, options.n, state)
        finally:
            shutil.rmtree(state, ignore_errors=True)
        show(kind, results[kind])
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
