"""Many writers of one shared cache at once, some of them killed: what was completed is found, what was not is nowhere to be seen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.trust import Trust
from lamina.cache.remote.upkeep import prune, verify
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import key

_WRITER = """
import sys
from pathlib import Path
import msgspec
from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.envelope import BlobRef
from lamina.cache.remote.shared import Publication, SharedCache
from lamina.cache.remote.trust import Trust
from lamina.oci.digest import sha256
from lamina.store.memory import MemoryBlobs
from lamina.testing.conformance.recordcache import record

root, scope, number, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
local = MemoryBlobs()
cache = SharedCache(DirectoryObjects(root), now=lambda: 1000.0, trust=Trust(scope))
for round_ in range(rounds):
    refs = []
    for data in (b"shared %d" % (round_ % 7) * 5000, b"own %d %d" % (number, round_) * 500):
        local.keep(sha256(data), data)
        refs.append(BlobRef(sha256(data), len(data)))
    one = msgspec.structs.replace(record(round_ % 5, created=float(round_)), build=f"{number}-{round_}")
    cache.publish([Publication(one, tuple(refs))], local)
    print(f"{number}-{round_}", flush=True)
"""


def _start(root: Path, number: int, rounds: int) -> subprocess.Popen[bytes]:
    scope = ("main", "pr/17")[number % 2]
    arguments = [sys.executable, "-c", _WRITER, str(root), scope, str(number), str(rounds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)


def _builds(root: Path) -> set[str]:
    """Builds whose records a reader finds and can fetch whole, in both scopes."""
    found: set[str] = set()
    with SharedCache(DirectoryObjects(root), now=lambda: 1000.0, trust=Trust("pr/17")) as reader:
        for answer in reader.lookup([key(number) for number in range(5)]).values():
            assert not answer.refusals
            for offer in answer.offers:
                assert not reader.fetch_blobs(offer.blobs, MemoryBlobs(), flush=False).gone
                found.add(offer.record.build)
    return found


def test_writers_of_two_scopes_lose_nothing(tmp_path: Path) -> None:
    writers = [_start(tmp_path, number, 12) for number in range(6)]
    told = {line for writer in writers for line in writer.communicate(timeout=120)[0].decode().split()}
    assert all(writer.returncode == 0 for writer in writers)
    assert len(told) == 6 * 12
    assert _builds(tmp_path) == told
    assert verify(DirectoryObjects(tmp_path), bytes_too=True) == []


def test_killed_writers_leave_what_they_completed(tmp_path: Path) -> None:
    seed = 20
    dice = random.Random(seed)
    writers = [_start(tmp_path, number, 400) for number in range(4)]
    time.sleep(1.0)  # into the middle of it; where exactly is no matter
    for writer in writers:
        time.sleep(dice.random() * 0.2)
        os.kill(writer.pid, signal.SIGKILL)
    told = {line for writer in writers for line in writer.communicate(timeout=60)[0].decode().split()}
    objects = DirectoryObjects(tmp_path)
    assert _builds(tmp_path) >= told
    assert verify(objects, bytes_too=True) == []
    prune(objects, time.time() + 2 * 86400, expiry=None, grace=86400)
    assert _builds(tmp_path) >= told
    assert verify(objects) == []
    assert os.listdir(tmp_path / "tmp") == [], "halves of the killed are swept"
