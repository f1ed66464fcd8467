"""Directories behind `RUN --mount=type=cache`: one per id, shared, private or locked between steps and processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from lamina.diagnostics.errors import LaminaError
from lamina.engine.locks import try_lock, wait_lock
from lamina.sandbox.protocols import CancelToken
from lamina.store.removal import remove


class CacheMountRefused(LaminaError):
    """The owner that a mount asks for does not exist in this sandbox."""

    code = "engine/cache-mount"


class CacheMounts:
    """`folder` holds `<hash of id>/<n>/data` and `<hash of id>/<n>/lock`. n is 0 but for `private` mounts that meet.

    `arrive(id, data, reset)` is called before a mount of number 0 is shown: where mounts are shared between machines.
    """

    def __init__(self, folder: Path, arrive: Callable[[str, Path, bool], None] | None = None) -> None:
        self._folder = folder
        self._arrive = arrive

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
        base = self._folder / hashlib.sha256(identifier.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        number = 0
        while True:
            place = base / str(number)
            try:
                place.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # it was pruned between the two
            try:
                data = place / "data"
                if sharing == "shared":
                    # Without a lock of our own first: a conversion that fails gives up what was held.
                    if reset and try_lock(descriptor, fcntl.LOCK_EX) and _still_there(place / "lock", descriptor):
                        remove(data)
                    wait_lock(descriptor, fcntl.LOCK_SH, cancel, f"cache mount {identifier}")
                elif sharing == "locked":
                    wait_lock(descriptor, fcntl.LOCK_EX, cancel, f"cache mount {identifier}")
                elif not try_lock(descriptor, fcntl.LOCK_EX):
                    number += 1
                    continue
                if not _still_there(place / "lock", descriptor):
                    continue
                (place / "id").write_text(identifier, encoding="utf-8", errors="surrogateescape")
                if reset and sharing != "shared":
                    remove(data)
                new = _make(data, mode, uid, gid, identifier)
                if self._arrive is not None and number == 0:
                    self._arrive(identifier, data, reset)
                yield data, new
                return
            finally:
                os.close(descriptor)


def _still_there(path: Path, descriptor: int) -> bool:
    """Whether the lock is the one under its name: pruning moves a whole mount away, its lock with it."""
    try:
        return os.fstat(descriptor).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False


def _make(data: Path, mode: int, uid: int, gid: int, identifier: str) -> bool:
    try:
        data.mkdir()
    except FileExistsError:
        return False
    try:
        if uid or gid:
            os.chown(data, uid, gid)
        os.chmod(data, mode)
    except (OSError, OverflowError) as error:  # a number that no owner or mode has
        data.rmdir()
        why = error.strerror if isinstance(error, OSError) else f"mode {mode:o} and these ids are more than there are"
        raise CacheMountRefused(
            f"cache mount {identifier}: uid {uid} and gid {gid} cannot be given here: {why}",
            hint="a single-id sandbox knows root only; lamina doctor tells what a range of ids needs",
        ) from error
    return True
