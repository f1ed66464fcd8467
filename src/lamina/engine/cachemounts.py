"""Directories behind `RUN --mount=type=cache`: one per id, shared, private or locked between steps and processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from lamina.engine.locks import try_lock, wait_lock
from lamina.sandbox.protocols import CancelToken


class CacheMounts:
    """`folder` holds `<hash of id>/<n>/data` and `<hash of id>/<n>/lock`. n is 0 but for `private` mounts that meet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hold(
        self,
        identifier: str,
        sharing: Literal["shared", "private", "locked"],
        cancel: CancelToken,
        *,
        mode: int,
        uid: int,
        gid: int,
        reset: bool,
    ) -> Iterator[tuple[Path, bool]]:
        """The directory to show and whether it is new. `locked` waits for others; `private` takes a copy of its own when others hold one.

        `reset` (a forced step): emptied first when nobody else holds it. Ids are those inside the sandbox's user namespace.
        """
        base = self._folder / hashlib.sha256(identifier.encode()).hexdigest()[:32]
        number = 0
        while True:
            place = base / str(number)
            place.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if sharing == "shared":
                    wait_lock(descriptor, fcntl.LOCK_SH, cancel, f"cache mount {identifier}")
                elif sharing == "locked":
                    wait_lock(descriptor, fcntl.LOCK_EX, cancel, f"cache mount {identifier}")
                elif not try_lock(descriptor, fcntl.LOCK_EX):
                    number += 1
                    continue
                (place / "id").write_text(identifier, encoding="utf-8")
                data = place / "data"
                if reset and data.exists() and (sharing != "shared" or try_lock(descriptor, fcntl.LOCK_EX)):
                    _remove(data)
                    if sharing == "shared":
                        fcntl.flock(descriptor, fcntl.LOCK_SH)
                new = _make(data, mode, uid, gid)
                yield data, new
                return
            finally:
                os.close(descriptor)


def _make(data: Path, mode: int, uid: int, gid: int) -> bool:
    try:
        data.mkdir()
    except FileExistsError:
        return False
    if uid or gid:
        os.chown(data, uid, gid)
    os.chmod(data, mode)
    return True


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
