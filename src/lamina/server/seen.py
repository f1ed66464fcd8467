"""Which configs the classic builds of this engine have made: what docker would call cached. Digests only; the oldest are forgotten."""

from __future__ import annotations

import os
import threading
from pathlib import Path

_SIZE = 32
_MOST = 20_000


class SeenSteps:
    """Thread-safe; kept in a file. A damaged or lost file costs words in a build's output, nothing else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        data = file.read_bytes() if file.exists() else b""
        known = [data[at : at + _SIZE] for at in range(0, len(data) - _SIZE + 1, _SIZE)]
        self._known = dict.fromkeys(known[-_MOST:])
        if len(known) > 2 * _MOST:
            temporary = file.with_suffix(".new")
            temporary.write_bytes(b"".join(self._known))
            os.replace(temporary, file)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, digests: list[bytes]) -> None:
        with self._lock:
            fresh = [digest for digest in dict.fromkeys(digests) if digest not in self._known]
            if not fresh:
                return
            self._known.update(dict.fromkeys(fresh))
            with open(self._file, "ab") as file:
                file.write(b"".join(fresh))
