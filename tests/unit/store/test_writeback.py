from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour
from lamina.store.files import Writeback
from lamina.store.local import LocalStore


def test_large_blobs_are_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def advise(handle: int, start: int, length: int, advice: int) -> None:
        told.append((start, length))
        real(handle, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    data = os.urandom(1 << 20)
    with LocalStore.open(tmp_path / "store", Flavour("trusted"), now=lambda: 1000.0) as store:
        with store.blobs.ingest() as writer:
            for _ in range(20):
                writer.write(data)
            digest = writer.commit()
        assert digest == f"sha256:{hashlib.sha256(data * 20).hexdigest()}"
        assert store.blobs.path(digest).read_bytes() == data * 20
    assert told == [(0, 8 << 20), (8 << 20, 8 << 20)], "each byte is told once"


def test_a_file_system_that_cannot_be_told() -> None:
    reading, writing = os.pipe()
    try:
        Writeback(writing).wrote(1 << 30)
    finally:
        os.close(reading)
        os.close(writing)
