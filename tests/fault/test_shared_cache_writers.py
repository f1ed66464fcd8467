"""Many writers of one shared cache at once, some of them killed: what was completed is found, what was not is nowhere to be seen."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.opening import open_cache
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.upkeep import prune, verify
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport
from lamina.server.cacheapi import Access, CacheApi, Token
from lamina.server.cacheserver import CacheServer
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import key
from lamina.testing.fakes3 import FakeS3
from lamina.testing.registry import docker_registry

_KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "test", "TOKEN": "all"}
_WRITER = (
    f"KEYS = {_KEYS!r}\n"
    + """
import sys
import msgspec
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.opening import open_cache
from lamina.cache.remote.shared import Publication
from lamina.oci.digest import sha256
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import record

spec, scope, number, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
local = MemoryBlobs()
cache = open_cache(spec, now=lambda: 1000.0, environment=KEYS, scope=scope, client=lambda: RegistryClient(Transport()))
for round_ in range(rounds):
    refs = []
    for data in (b"shared %d" % (round_ % 7) * 5000, b"own %d %d" % (number, round_) * 500):
        local.keep(sha256(data), data)
        refs.append(BlobRef(sha256(data), len(data)))
    one = msgspec.structs.replace(record(round_ % 5, created=float(round_)), build=f"{number}-{round_}")
    cache.publish([Publication(one, tuple(refs))], local)
    print(f"{number}-{round_}", flush=True)
"""
)


def _start(spec: str, number: int, rounds: int) -> subprocess.Popen[bytes]:
    scope = ("main", "pr/17")[number % 2]
    arguments = [sys.executable, "-c", _WRITER, spec, scope, str(number), str(rounds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)


def _open(spec: str) -> SharedCache:
    return open_cache(spec, now=lambda: 1000.0, environment=_KEYS, scope="pr/17", client=lambda: RegistryClient(Transport()))


def _builds(spec: str) -> set[str]:
    """Builds whose records a reader finds and can fetch whole, in both scopes."""
    found: set[str] = set()
    with _open(spec) as reader:
        for answer in reader.lookup([key(number) for number in range(5)]).values():
            assert not answer.refusals
            for offer in answer.offers:
                assert not reader.fetch_blobs(offer.blobs, MemoryBlobs(), flush=False).gone
                found.add(offer.record.build)
    return found


@contextmanager
def _backend(kind: str, folder: Path) -> Iterator[str]:
    """The spec of an empty cache."""
    if kind == "dir":
        yield f"dir:{folder}"
    elif kind == "oci":
        with docker_registry(folder) as host:
            yield f"oci://{host}/team/cache"
    elif kind == "s3":
        with FakeS3() as fake:
            yield f"s3://bucket/prefix,endpoint={fake.endpoint}"
    else:
        access = Access({"all": Token(hashlib.sha256(b"all").hexdigest(), write=("*",))})
        server = CacheServer(CacheApi(DirectoryObjects(folder), access), "127.0.0.1", 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        yield f"http://127.0.0.1:{server.address[1]},token-env=TOKEN"
        server.stop()
        thread.join()


@pytest.mark.parametrize("kind", ["dir", "http", "oci", "s3"])
def test_writers_of_two_scopes_lose_nothing(kind: str, tmp_path: Path) -> None:
    if kind == "oci" and shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    if kind == "s3":
        pytest.importorskip("obstore", reason="the extra `s3` is not installed")
    with _backend(kind, tmp_path) as spec:
        writers = [_start(spec, number, 8) for number in range(6)]
        told = {line for writer in writers for line in writer.communicate(timeout=300)[0].decode().split()}
        assert [writer.returncode for writer in writers] == [0] * 6
        assert len(told) == 6 * 8
        assert _builds(spec) == told
        with _open(spec) as reader:
            assert reader.verify(bytes_too=True) == []


def test_killed_writers_leave_what_they_completed(tmp_path: Path) -> None:
    seed = 20
    dice = random.Random(seed)
    writers = [_start(f"dir:{tmp_path}", number, 400) for number in range(4)]
    time.sleep(1.0)  # into the middle of it; where exactly is no matter
    for writer in writers:
        time.sleep(dice.random() * 0.2)
        os.kill(writer.pid, signal.SIGKILL)
    told = {line for writer in writers for line in writer.communicate(timeout=180)[0].decode().split()}
    objects = DirectoryObjects(tmp_path)
    assert _builds(f"dir:{tmp_path}") >= told
    assert verify(objects, bytes_too=True) == []
    prune(objects, time.time() + 2 * 86400, expiry=None, grace=86400)
    assert _builds(f"dir:{tmp_path}") >= told
    assert verify(objects) == []
    assert os.listdir(tmp_path / "tmp") == [], "halves of the killed are swept"
