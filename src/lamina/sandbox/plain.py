"""Rungs without namespaces: `chroot` (root that may not mount, as in a default container) and `proot` (anybody, where it is installed).

A RUN sees the machine's processes and network. The root is a copy of the layers' files, kept from one RUN to the next of the same stage;
what a RUN changed is found by inode and ctime.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.layer.flavour import Flavour
from lamina.layer.view import LayerView
from lamina.sandbox.plaintree import PlainTree
from lamina.sandbox.protocols import Bind, CancelToken, OnOutput, SandboxReport, SandboxSetupFailed, SandboxSpec, SubMount
from lamina.sandbox.zygote import Plain, Zygote, document

if TYPE_CHECKING:
    from lamina.sandbox.limits import Limits
    from lamina.sandbox.zygoteprocess import ZygoteProcess

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_TICK = 0.012  # seconds: kernels before 6.13 stamp files with the clock of the last tick


class PlainSandbox:
    """`folder`: where trees are kept, on a real file system; a temporary one without it. Thread-safe."""

    def __init__(
        self, name: str, flavour: Flavour, folder: Path | None = None, limits: Limits | None = None, process: ZygoteProcess | None = None
    ) -> None:
        self._name = name
        self._flavour = flavour
        self._given = folder
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._free: list[tuple[PlainTree, tuple[int, int] | None]] = []  # with the inode of the upper that its last run filled
        self._count = 0
        self._zygote = Zygote(userxattr=False, single=flavour.ids.kind == "single", limits=limits, process=process)

    @property
    def name(self) -> str:
        return self._name

    @property
    def flavour(self) -> Flavour:
        return self._flavour

    def probe(self) -> tuple[str, ...]:
        """Runs a program that is not there in an empty root."""
        from lamina.sandbox.rungs import probe

        if self._name == "proot" and shutil.which("proot") is None:
            return ("proot is not installed",)
        return probe(self)

    def run(self, spec: SandboxSpec, on_output: OnOutput, cancel: CancelToken) -> SandboxReport:
        if spec.network == "none":
            raise SandboxSetupFailed(f"RUN --network=none needs a network of its own, which the rung {self._name} cannot make")
        if spec.insecure:
            raise SandboxSetupFailed(
                f"RUN --security=insecure: what it mounts would stay on this machine (the rung {self._name} has no mounts of its own)"
            )
        proot = shutil.which("proot") if self._name == "proot" else None
        try:
            tree = self._take(spec.root.lowers)
            try:
                self._dress(tree, spec)
                before = tree.stamps()
                time.sleep(_TICK)
                report = self._zygote.run(spec, on_output, cancel, Plain(tree.root, proot))
                tree.changes(before, spec.root.upper.parent)
                tree.undress()
            except BaseException:
                _discard(tree)
                raise
        except OSError as error:
            where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
            raise SandboxSetupFailed(f"the root of the rung {self._name} cannot be made: {error.strerror or error}{where}") from error
        if report.exit_code:
            _discard(tree)
        else:
            found = os.stat(spec.root.upper)
            with self._lock:
                self._free.append((tree, (found.st_dev, found.st_ino)))
        return report

    def close(self) -> None:
        self._zygote.close()
        with self._lock:
            for tree, _ in self._free:
                _discard(tree)
            self._free.clear()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
                if self._given is not None:
                    with suppress(OSError):  # others use it, or it went with the store's scratch
                        self._given.rmdir()

    def _take(self, lowers: tuple[Path, ...]) -> PlainTree:
        """A tree that shows these layers: the last run's where its upper became the layer on top, else a new one."""
        with self._lock:
            for number, (tree, filled) in enumerate(self._free):
                if tree.lowers == lowers[1:] and lowers and filled == _identity(lowers[0]):
                    del self._free[number]
                    tree.lowers = lowers
                    return tree
            stale, self._free = self._free[1:], self._free[:1]  # one may still be gone on with; copies are big
            if self._folder is None:
                if self._given is not None:
                    self._given.mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(prefix="trees-", dir=self._given))
                self._folder.chmod(0o755)  # users of the image must get through
            self._count += 1
            tree = PlainTree(self._folder / str(self._count), self._flavour)
        for old, _ in stale:
            _discard(old)
        try:
            tree.fill(lowers)
        except BaseException:
            _discard(tree)
            raise
        return tree

    def _dress(self, tree: PlainTree, spec: SandboxSpec) -> None:
        body = document(spec, False)
        for item in spec.tmpfs:
            place = tree.show(item.target)
            place.mkdir()
            place.chmod(item.mode)
        for mount in spec.submounts:
            self._submount(tree, mount)
        for bind in spec.binds:
            _bind(tree, bind)
        for name, text in (("resolv.conf", body["resolv_conf"]), ("hosts", body["hosts_file"]), ("hostname", spec.hostname + "\n")):
            tree.show("/etc/" + name).write_text(text)
        for secret in spec.secrets:
            place = tree.show(secret.target)
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with open(descriptor, "wb") as out:
                out.write(secret.data)
                os.fchmod(descriptor, secret.mode)
                if os.geteuid() == 0:
                    os.fchown(descriptor, secret.uid, secret.gid)
        if self._name == "chroot":
            for name, (major, minor) in _DEVICES.items():
                place = tree.show("/dev/" + name)
                os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(major, minor))
                os.chmod(place, 0o666)
            place = tree.show("/dev/shm")
            place.mkdir()
            place.chmod(0o1777)
        else:  # proot shows the machine's there
            for name in ("/dev", "/proc", "/sys"):
                tree.show(name).mkdir()
        tree.dressed()

    def _submount(self, tree: PlainTree, mount: SubMount) -> None:
        with LayerView([lower.parent for lower in reversed(mount.overlay.lowers)], self._flavour) as view:
            source = view.resolve(os.fsencode(mount.selector.strip("/")))
            entry = None if source is None else view.entry(source)
            if source is None or entry is None:
                raise SandboxSetupFailed(f"the mount source {mount.selector} is not there")
            copy = PlainTree(tree.folder / f"mount{len(os.listdir(tree.folder))}", self._flavour)
            copy.fill(mount.overlay.lowers)
            shutil.move(os.fsdecode(os.path.join(os.fsencode(copy.root), source)), tree.show(mount.target))
            _discard(copy)


def _bind(tree: PlainTree, bind: Bind) -> None:
    """A copy. What a run writes in a read-write folder is brought back at its end; a socket is linked."""
    found = os.stat(bind.source)
    place = tree.show(bind.target, back=None if bind.readonly else bind.source)
    if stat.S_ISDIR(found.st_mode):
        shutil.copytree(bind.source, place, symlinks=True)
        if os.geteuid() == 0:
            os.chown(place, found.st_uid, found.st_gid)
    elif stat.S_ISREG(found.st_mode):
        shutil.copy2(bind.source, place)
    else:
        os.link(bind.source, place)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _discard(tree: PlainTree) -> None:
    from lamina.layer.paths import FOLDER

    for folder, names, _ in os.walk(tree.folder):  # an image's folders need not let their owner in
        for name in names:
            try:
                os.close(os.open(os.path.join(folder, name), FOLDER))
            except PermissionError:
                os.chmod(os.path.join(folder, name), 0o700)
            except OSError:
                continue
    shutil.rmtree(tree.folder, ignore_errors=True)
