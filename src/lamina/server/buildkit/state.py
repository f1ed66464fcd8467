"""What the requests of BuildKit's clients share: sessions, builds under way, kept folders, contexts that were sent beforehand."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.server.buildkit.folders import KeptFolders
from lamina.server.buildkit.sessions import Sessions
from lamina.server.errors import ApiError, Conflict
from lamina.solver.cancel import CancelToken

if TYPE_CHECKING:
    from lamina.server.buildkit.gateway import Bridge
    from lamina.server.buildkit.progress import Progress

_UPLOAD = 60.0
_PATIENCE = 20.0  # seconds that one request of a client waits for another one of its
_ENDED = 16  # builds whose progress may still be asked for


class Build:
    """One build by its client's name for it."""

    def __init__(self, progress: Progress, cancel: CancelToken) -> None:
        self.progress = progress
        self.cancel = cancel
        self._bridged = threading.Event()
        self._bridge: Bridge | None = None

    def set_bridge(self, bridge: Bridge | None) -> None:
        """Where its client's own build function calls; None: it has none."""
        self._bridge = bridge
        self._bridged.set()

    def bridge(self, seconds: float = _PATIENCE) -> Bridge | None:
        """The client's function begins to call while the build is still being taken in."""
        self._bridged.wait(seconds)
        return self._bridge


class Builds:
    """Thread-safe."""

    def __init__(self, now_nano: Callable[[], int]) -> None:
        self._now_nano = now_nano
        self._changed = threading.Condition()
        self._known: dict[str, Build] = {}
        self._ended: list[str] = []

    def begin(self, ref: str) -> Build:
        """Conflict when a build has this name."""
        from lamina.server.buildkit.progress import Progress

        with self._changed:
            if ref in self._known and ref not in self._ended:
                raise Conflict(f"a build {ref[:64]!r} exists already")
            build = self._known[ref] = Build(Progress(self._now_nano), CancelToken())
            if ref in self._ended:
                self._ended.remove(ref)
            self._changed.notify_all()
        return build

    def end(self, ref: str) -> None:
        """Its progress can be read for a while."""
        with self._changed:
            build = self._known[ref]
            self._ended.append(ref)
            for old in self._ended[:-_ENDED]:
                del self._known[old]
            del self._ended[:-_ENDED]
        build.progress.close()
        build.cancel.close()

    def wait(self, ref: str, seconds: float = _PATIENCE) -> Build:
        """A client asks for a build and for its status at the same time. ApiError."""
        with self._changed:
            self._changed.wait_for(lambda: ref in self._known, seconds)
            found = self._known.get(ref)
        if found is None:
            raise ApiError(f"there is no build {ref[:64]!r}", 404)
        return found

    def find(self, ref: str) -> Build | None:
        with self._changed:
            return self._known.get(ref)


class Uploads:
    """Contexts that come in a request of their own (`docker build - < context.tar`). Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, int] = {}  # name -> descriptor of a whole archive

    def put(self, name: str, descriptor: int, seconds: float = _UPLOAD) -> None:
        """Blocks until the build has taken it; the descriptor is the build's then. ApiError when none does."""
        with self._changed:
            if name in self._waiting:
                os.close(descriptor)
                raise Conflict(f"a context for the build {name[:64]!r} is there already")
            self._waiting[name] = descriptor
            self._changed.notify_all()
            self._changed.wait_for(lambda: name not in self._waiting, seconds)
            left = self._waiting.pop(name, None)
        if left is not None:
            os.close(left)
            raise ApiError(f"no build {name[:64]!r} took its context", 404)

    def take(self, name: str, seconds: float = _UPLOAD) -> int:
        """ApiError when it does not come."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._waiting, seconds)
            found = self._waiting.pop(name, None)
            self._changed.notify_all()
        if found is None:
            raise ApiError("the context of this build did not come", 400)
        return found


class BuildKit:
    def __init__(self, folder: Path, now_nano: Callable[[], int]) -> None:
        self.sessions = Sessions()
        self.builds = Builds(now_nano)
        self.folders = KeptFolders(folder / "contexts")
        self.uploads = Uploads()
