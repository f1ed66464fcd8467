"""LocalStore: one root directory, many processes, no daemon."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from lamina.layer.flavour import Flavour
from lamina.store.blobs import LocalBlobs
from lamina.store.builds import Builds
from lamina.store.database import Database
from lamina.store.errors import OtherStore, border
from lamina.store.facts import Facts
from lamina.store.files import replace
from lamina.store.layers import Layers
from lamina.store.layout import FORMAT, Layout
from lamina.store.leases import Lease
from lamina.store.locks import Locks, exclusive
from lamina.store.origins import Origins
from lamina.store.recovery import recover, sweep
from lamina.store.refs import Images

_BALLAST = 512 << 10  # SQLite's shared memory, and a log of the pages that pruning a few thousand layers changes
_OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}\n'
_EMPTY_INDEX = b"""{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": []
}
"""


class LocalStore:
    """Everything below one root. Use as a context manager: closing gives back the lease and what was begun. Thread-safe."""

    def __init__(self, layout: Layout, flavour: Flavour, now: Callable[[], float]) -> None:
        """Use `open`."""
        self.layout = layout
        self.flavour = flavour
        self.now = now
        with border(layout.root):
            self.lease = Lease(layout)
        try:
            self.database = Database(layout)
        except BaseException:
            self.lease.close()
            raise
        self.blobs = LocalBlobs(layout, self.lease)
        self.layers = Layers(layout, self.database, self.lease, now)
        self.images = Images(layout, self.database, self.blobs, self.lease, now)
        self.facts = Facts(self.database, now)
        self.builds = Builds(self.database)
        self.origins = Origins(self.database)
        self.locks = Locks(layout)
        self._mutex = threading.Lock()
        self._scratch: Path | None = None
        self._open = True
        self._pid = os.getpid()

    @classmethod
    def open(cls, root: Path, flavour: Flavour, *, now: Callable[[], float], making_room: bool = False) -> LocalStore:
        """Open the store at `root`, making it when there is none; leftovers of killed processes are removed.

        `making_room` (for pruning): works on a full disk too, by giving up the store's ballast; `prune` puts it back.

        OtherStore when the root has another flavour, format or owner; other StoreErrors when it cannot be used.
        """
        layout = Layout(Path(os.path.abspath(root)))
        with border(layout.root):
            try:
                version = layout.version.read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, NotADirectoryError):
                version = _create(layout, flavour)
            check_version(layout.root, version, flavour)
            _check_owner(layout.root)
            for folder in layout.folders():
                if not os.path.isdir(folder):  # somebody tidied up: what was in it is missing, and made again
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if making_room:
                layout.ballast.unlink(missing_ok=True)
        try:
            store = cls(layout, flavour, now)
        except OtherStore:
            if making_room:
                restore_ballast(layout)
            raise
        try:
            with border(layout.root):
                recover(layout, store.database, store.lease, store.images)
        except BaseException:
            store.close()
            raise
        return store

    def scratch(self) -> Path:
        """A folder for temporary files of this process, mode 0700; gone with the store's closing or the process's death.

        Nothing else of tmp/ may be used: the collector removes what does not carry a living lease's name.
        """
        with self._mutex, border(self.layout.root):
            if self._scratch is None:
                folder = self.layout.tmp / self.lease.name()
                folder.mkdir(0o700)
                self._scratch = folder
        return self._scratch

    def close(self) -> None:
        """Idempotent. Never raises for a store that went away."""
        if not self._open or self._pid != os.getpid():
            return
        self._open = False
        try:
            with border(self.layout.root), self.lease.careful():
                self.layers.flush()
                self.images.flush()
                if self.blobs.arrived:
                    self.images.refresh_index(())
                sweep(self.layout, {self.lease.id})
        finally:
            self.lease.close()
            self.database.close()

    def __enter__(self) -> LocalStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except Exception:
            # Nothing that the block made is lost by a failed closing; its own error says more.
            if error is None:
                raise


def restore_ballast(layout: Layout) -> None:
    """Without it a store works as well, until the disk is full."""
    if layout.ballast.exists():
        return
    try:
        with open(layout.ballast, "wb") as out:
            out.write(os.urandom(_BALLAST))  # not zeros: some file systems keep those without any room
    except OSError:
        layout.ballast.unlink(missing_ok=True)


def _version_text(flavour: Flavour) -> str:
    return f"lamina store\nformat {FORMAT}\nflavour {flavour}\n"


def _create(layout: Layout, flavour: Flavour) -> str:
    """Make an empty store; several processes may try at once. VERSION comes last: with it the store exists."""
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if layout.foreign() and not layout.version.exists():  # in this order: what another process makes after its VERSION is no stranger's
        raise OtherStore(f"{layout.root} is not empty and is no lamina store", hint="choose an empty folder with --root")
    for folder in layout.folders():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(layout.locks / "create"):
        if not layout.version.exists():
            os.chmod(layout.root, 0o700)
            restore_ballast(layout)
            for path, data in (
                (layout.oci_layout, _OCI_LAYOUT),
                (layout.index, _EMPTY_INDEX),
                (layout.version, _version_text(flavour).encode()),
            ):
                temporary = layout.root / "VERSION.new"
                temporary.unlink(missing_ok=True)  # of a process that was killed here
                replace(path, data, temporary)
    return layout.version.read_text(encoding="utf-8", errors="replace")


def check_version(root: Path, text: str, flavour: Flavour) -> None:
    """Whether the store at `root`, whose VERSION says `text`, is one for us. OtherStore."""
    facts = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    if not text.startswith("lamina store\n") or "format" not in facts or "flavour" not in facts:
        raise OtherStore(f"{root} is no lamina store: its VERSION cannot be read", hint="choose another place with --root")
    if facts["format"] != str(FORMAT):
        raise OtherStore(
            f"the store {root} has format {facts['format']}; this lamina reads format {FORMAT}",
            hint="use the lamina that made it, or another --root",
        )
    if facts["flavour"] != str(flavour):
        raise OtherStore(
            f"the store {root} was made by {_whose(facts['flavour'])}; this is {_whose(str(flavour))}",
            hint="they keep layers in different ways: use another --root, or run as the store was made",
        )


_WHOSE = {
    "trusted-real": "root with all its rights",
    "user-real": "a user with a range of ids, in a user namespace",
    "user-single": "a user with one id, in a user namespace",
    "plain-real": "root without the right to mount",
    "plain-single": "a user without user namespaces",
}


def _whose(flavour: str) -> str:
    return f"{_WHOSE[flavour]} ({flavour})" if flavour in _WHOSE else repr(flavour)


def _check_owner(root: Path) -> None:
    """Inside a user namespace both sides are seen through the same map, so no user id needs to be written down."""
    found = os.stat(root)
    if found.st_uid != os.geteuid():
        raise OtherStore(
            f"the store {root} belongs to uid {found.st_uid}, this process is uid {os.geteuid()}",
            hint="choose another place with --root",
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise OtherStore(f"others may write in the store {root}", hint=f"chmod go-w {root}")
