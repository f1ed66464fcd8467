"""A local directory as a file tree: what a build may take from its context.

Shown as BuildKit's client sends it: owner 0:0, sockets left out, ignored names invisible, links never followed out of the root.
Unless `exact_modes`, a group-write bit without an other-write bit (what umask 002 leaves and 022 takes away) is cleared.
Folders are scanned when asked for, once per tree object, so one build sees one state of each folder.
Names that no layer could hold (more than MAX_PATH bytes) are refused; folders may be as deep as that allows, so nothing here recurses.
"""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from lamina.layer import merkle
from lamina.layer.entry import Entry, Kind
from lamina.layer.links import follow
from lamina.layer.modes import ModeRule
from lamina.layer.paths import MAX_PATH
from lamina.layer.reading import (
    CHUNK,
    ContextChanged,
    ContextUnreadable,
    Facts,
    digest_file,
    facts_of,
    node_now,
    plain,
    read_xattrs,
    show,
)
from lamina.layer.statcache import RACY, FolderRecord, Node, StatCache, Summary, decode_nodes, encode_nodes

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_LEVELS = 64  # folders that a walk keeps open above the one it is in; a limit of 256 descriptors has to be enough
_pack = msgspec.msgpack.Encoder().encode
_REGULAR = Kind.FILE
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}


class IgnoreFolder(Protocol):
    """A folder in a walk. `ignored` is its own verdict, `skip` says that nothing below it can be shown either."""

    @property
    def ignored(self) -> bool: ...
    @property
    def skip(self) -> bool: ...
    def directory(self, name: str) -> IgnoreFolder:
        """The folder `name` in this one."""
        ...

    def kept(self, names: Iterable[str]) -> list[str]:
        """Those of the names (of anything but folders) that are shown."""
        ...


class Ignore(Protocol):
    """Which names of a context do not exist for the build; lamina.dockerfile.ignore.IgnoreRules is one."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Equal patterns decide alike; their digest is part of what the stat cache remembers."""
        ...

    def root(self) -> IgnoreFolder: ...


class _Folder:
    """One scanned folder. `nodes` come from the record, from an older record by equal stat, or are made of `facts`."""

    __slots__ = ("changed", "facts", "nodes", "record", "signature")

    def __init__(self, facts: list[str | Facts], signature: bytes, record: FolderRecord | None, nodes: dict[bytes, Node] | None) -> None:
        self.facts = facts
        self.signature = signature
        self.record = record
        self.nodes = nodes
        self.changed = record is None


class _Frame:
    """A folder whose digest is being made: `fd` -1 while too many are open below it, `todo` its folders, `below` those that are done."""

    __slots__ = ("below", "fd", "head", "leaves", "name", "path", "todo")

    def __init__(self, path: bytes, name: bytes, fd: int, head: bytes, summary: Summary) -> None:
        self.path = path
        self.name = name
        self.fd = fd
        self.head = head
        self.leaves = summary.leaves
        self.todo = iter(summary.folders)
        self.below: list[tuple[bytes, bytes]] = []


class ContextTree:
    """A FileTree over `root`. Not thread-safe for scanning; `save()` writes the stat cache."""

    def __init__(self, root: Path, ignore: Ignore | None = None, cache: StatCache | None = None, exact_modes: bool = False) -> None:
        self._held: tuple[bytes, int] | None = None  # the folder that a name was opened in last: the next one is often beside it
        self._root = os.fsencode(root)
        self._ignore = ignore
        self._cache = cache if cache is not None else StatCache()
        self._exact = exact_modes
        self._when = time.time_ns()
        self._folders: dict[bytes, _Folder] = {}
        self._visible: dict[bytes, dict[bytes, Node]] = {}
        self._below: dict[bytes, list[tuple[bytes, Entry]]] = {}
        self._rules: dict[bytes, IgnoreFolder] = {}
        if ignore is not None:
            self._rules[b""] = ignore.root()
        patterns = sha256(_pack(ignore.patterns)).hexdigest() if ignore is not None and ignore.patterns else ""
        self._view = f"{patterns}|{'exact' if exact_modes else 'blind'}|"

    # -- FileTree

    def entry(self, path: bytes) -> Entry | None:
        found = self.lookup(path)
        if found is not None or b"/" not in path:
            return found
        parent, _, name = path.rpartition(b"/")
        where = follow(self.lookup, parent)
        return None if where is None or where == parent else self.lookup(where + b"/" + name if where else name)

    def lookup(self, path: bytes) -> Entry | None:
        """As entry(), but no link is followed, not in the parents either."""
        if not path:
            return Entry(b"", Kind.DIRECTORY, 0o755)
        node = self._node(path)
        return None if node is None else self._entry(path, node)

    def resolve(self, path: bytes) -> bytes | None:
        return follow(self.lookup, path)

    def children(self, path: bytes) -> Sequence[bytes]:
        return sorted(self._shown(path))

    def below(self, path: bytes) -> Sequence[tuple[bytes, Entry]]:
        """children() with their entries, kept: asked for by the listing and by the copy."""
        known = self._below.get(path)
        if known is None:
            base = path + b"/" if path else b""
            known = self._below[path] = [(name, self._entry(base + name, node)) for name, node in sorted(self._shown(path).items())]
        return known

    def nodes(self, path: bytes) -> Mapping[bytes, Node]:
        """What is known of the visible names of a folder; the digest of a file that nobody asked for yet is b""."""
        return self._shown(path)

    def open(self, path: bytes) -> BinaryIO:
        return io.FileIO(self.open_fd(path), "rb")

    def open_fd(self, path: bytes) -> int:
        """A descriptor of a regular file whose bytes are those that content() digested; the caller closes it."""
        node = self._node(path)
        if node is None or not stat.S_ISREG(node.mode):
            raise ContextUnreadable(f"{show(path)} is not a file of the build context")
        fd = self._open_below(path, _FILE)
        if not node.same_stat(node_now(node.name, os.fstat(fd))):
            os.close(fd)
            raise ContextChanged(f"{show(path)} was changed while the build ran", hint="run the build again")
        return fd

    def content(self, path: bytes) -> str:
        node = self._node(path)
        if node is None or not stat.S_ISREG(node.mode):
            raise ContextUnreadable(f"{show(path)} is not a file of the build context")
        if not node.digest:
            self._touch(path.rpartition(b"/")[0])
            fd = self._open_below(path, _FILE)
            digest_file(fd, node)
        return node.digest.hex()

    # -- beyond FileTree

    def several_names(self, path: bytes) -> bool:
        """Whether a regular file whose content() was asked for has other names (hard links)."""
        node = self._node(path)
        return node is None or node.links > 1

    def digest(self, path: bytes, head: bytes, mode: ModeRule | None = None) -> bytes:
        """Merkle digest of a visible folder ("" = all) whose own header is `head`.

        Equal to what selection.py computes name by name; here unchanged folders are not looked into.
        """
        stack: list[_Frame] = []
        try:
            stack.append(self._frame(path, b"", self._open_below(path, _FOLDER), head, mode))
            while True:
                frame = stack[-1]
                following = next(frame.todo, None)
                if following is not None:
                    name, inner = following
                    where = frame.path + b"/" + name if frame.path else name
                    try:
                        if frame.fd < 0:
                            frame.fd = self._open_folder(frame.path)
                        sub = os.open(name, _FOLDER, dir_fd=frame.fd)
                    except OSError as error:
                        raise ContextUnreadable(f"cannot read {show(where)} of the build context: {error.strerror}") from error
                    stack.append(self._frame(where, name, sub, inner, mode))
                    if len(stack) > _OPEN_LEVELS:
                        _release(stack[-_OPEN_LEVELS])
                    continue
                stack.pop()
                _release(frame)
                done = merkle.folder_digest(frame.head, frame.leaves, frame.below)
                if not stack:
                    return done
                stack[-1].below.append((frame.name, done))
        finally:
            for frame in stack:
                _release(frame)

    def hidden(self, path: bytes) -> bool:
        """Whether the name is on disk but ignored (for the message about a missing source)."""
        if self._ignore is None or self.lookup(path) is not None:
            return False
        try:
            os.close(self._open_below(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        except ContextUnreadable:
            return False
        return True

    def certain(self) -> list[tuple[bytes, list[str | Facts]]] | None:
        """All folders that were looked at, with names and facts as scandir gave them; None if a change could go unseen (statcache.py)."""
        limit = self._when - RACY
        found = []
        for path, folder in self._folders.items():
            if any(fact[3] >= limit or fact[2] >= limit for fact in folder.facts[1::2]):  # type: ignore[operator]  # every other is Facts
                return None
            found.append((path, folder.facts))
        return found

    def save(self) -> None:
        """Hand what was learnt to the stat cache and write it if anything is new."""
        for path, folder in self._folders.items():
            if folder.changed and folder.nodes is not None:
                nodes = list(folder.nodes.values())
                summaries = folder.record.summaries if folder.record is not None else {}
                racy = any(node.racy(self._when) for node in nodes)
                self._cache.put(path, FolderRecord(folder.signature, self._when, racy, encode_nodes(nodes), summaries))
                folder.changed = False
        self._cache.save()
        self.close()

    def close(self) -> None:
        """Give back the one descriptor that is kept. The tree can go on being used."""
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def __del__(self) -> None:
        self.close()

    # -- scanning

    def _open_below(self, path: bytes, flags: int) -> int:
        """Open a name below the root, no link followed on the way. A final folder or file as `flags` say."""
        parent, _, name = path.rpartition(b"/")
        try:
            if not path:
                return os.open(self._root, flags & ~os.O_NOFOLLOW)
            if self._held is None or self._held[0] != parent:
                above, _, last = parent.rpartition(b"/")
                if self._held is not None and parent and self._held[0] == above:  # one deeper: not from the root again
                    fd = os.open(last, _FOLDER, dir_fd=self._held[1])
                else:
                    fd = self._open_folder(parent)
                self.close()
                self._held = parent, fd
            return os.open(name, flags, dir_fd=self._held[1])
        except OSError as error:
            raise ContextUnreadable(f"cannot read {show(path)} of the build context: {error.strerror}") from error

    def _open_folder(self, path: bytes) -> int:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in path.split(b"/") if path else ():
            try:
                below = os.open(part, _FOLDER, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _folder(self, path: bytes, fd: int | None = None) -> _Folder:
        known = self._folders.get(path)
        if known is not None:
            return known
        if len(path) > MAX_PATH:
            raise ContextUnreadable(
                f"a folder of the build context has a path of {len(path)} bytes; no layer can hold more than {MAX_PATH} ({show(path[:60])}…)",
                hint="leave it out with .dockerignore",
            )
        own = fd is None
        where = self._open_below(path, _FOLDER) if fd is None else fd
        try:
            facts: list[str | Facts] = []
            add = facts.append
            with os.scandir(where) as names:
                for name in names:
                    try:
                        values = facts_of(name.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
                    add(name.name)
                    add(values)
            signature = sha256(plain(facts)).digest()
            record = self._cache.get(path)
            if record is not None and record.signature == signature and not record.racy:
                folder = _Folder(facts, signature, record, None)
            else:
                folder = _Folder(facts, signature, None, self._renew(path, facts, record, where))
        except OSError as error:
            raise ContextUnreadable(f"cannot read {show(path)} of the build context: {error.strerror}") from error
        finally:
            if own:
                os.close(where)
        self._folders[path] = folder
        return folder

    def _renew(self, path: bytes, facts: list[str | Facts], old: FolderRecord | None, fd: int) -> dict[bytes, Node]:
        """Nodes of a folder that is new or not as it was; what is certain about unchanged names is kept."""
        before = {node.name: node for node in decode_nodes(old.nodes) if not node.racy(old.when)} if old is not None else {}
        nodes: dict[bytes, Node] = {}
        for text, values in zip(facts[::2], facts[1::2]):
            name = os.fsencode(str(text))
            assert isinstance(values, tuple)
            node = Node(name, *values)
            kind = stat.S_IFMT(node.mode)
            if kind == stat.S_IFSOCK:
                continue
            known = before.pop(name, None)
            if known is not None and known.same_stat(node):
                node = known
            elif kind == stat.S_IFLNK:
                node.link = os.readlink(name, dir_fd=fd)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                node.rdev = os.stat(name, dir_fd=fd, follow_symlinks=False).st_rdev
            nodes[name] = node
        base = path + b"/" if path else b""
        for name, node in before.items():
            if stat.S_ISDIR(node.mode):
                self._cache.drop(base + name)
        return nodes

    def _nodes(self, path: bytes, fd: int | None = None) -> dict[bytes, Node]:
        folder = self._folder(path, fd)
        if folder.nodes is None:
            assert folder.record is not None
            folder.nodes = {node.name: node for node in decode_nodes(folder.record.nodes)}
        return folder.nodes

    def _touch(self, path: bytes) -> None:
        """Something new is going to be known about a folder's nodes."""
        self._folders[path].changed = True

    # -- looking

    def _shown(self, path: bytes, fd: int | None = None) -> dict[bytes, Node]:
        """The visible names of a folder."""
        if self._ignore is None:
            return self._nodes(path, fd)
        known = self._visible.get(path)
        if known is not None:
            return known
        todo = [path]
        while True:
            here = todo.pop()
            shown, undecided = self._filtered(here, fd if here == path else None)
            if undecided:
                todo += [here, *undecided]
                continue
            self._visible[here] = shown
            if not todo:
                return shown

    def _filtered(self, path: bytes, fd: int | None) -> tuple[dict[bytes, Node], list[bytes]]:
        """The visible names, and the folders that have to be looked into before that can be said.

        An ignored folder with something visible below it, and only such a one, is there all the same.
        """
        undecided: list[bytes] = []
        rules = self._rules_of(path)
        if rules.skip:
            return {}, undecided
        base = path + b"/" if path else b""
        nodes = self._nodes(path, fd)
        kept = set(rules.kept([_decoded(name) for name, node in nodes.items() if not stat.S_ISDIR(node.mode)]))
        shown: dict[bytes, Node] = {}
        for name, node in nodes.items():
            if stat.S_ISDIR(node.mode):
                below = self._rules[base + name] = rules.directory(_decoded(name))
                if not below.ignored:
                    shown[name] = node
                elif not below.skip:
                    inner = self._visible.get(base + name)
                    if inner is None:
                        undecided.append(base + name)
                    elif inner:
                        shown[name] = node
            elif _decoded(name) in kept:
                shown[name] = node
        return shown, undecided

    def _rules_of(self, path: bytes) -> IgnoreFolder:
        todo = []
        here = path
        while (rules := self._rules.get(here)) is None:
            todo.append(here)
            here = here.rpartition(b"/")[0]
        for here in reversed(todo):
            rules = self._rules[here] = rules.directory(_decoded(here.rpartition(b"/")[2]))
        return rules

    def _node(self, path: bytes) -> Node | None:
        """The visible node of exactly this path: every parent is a real, visible folder."""
        parent, _, name = path.rpartition(b"/")
        unseen = []
        here = parent
        while here and here not in self._folders:
            unseen.append(here)
            here = here.rpartition(b"/")[0]
        for here in reversed(unseen):
            outer, _, last = here.rpartition(b"/")
            above = self._shown(outer).get(last)
            if above is None or not stat.S_ISDIR(above.mode):
                return None
        return self._shown(parent).get(name)

    def _entry(self, path: bytes, node: Node) -> Entry:
        mode = node.mode
        if stat.S_ISREG(mode):  # nearly all are
            xattrs = node.xattrs if node.xattrs is not None else self._xattrs(path, node)
            return Entry(path, _REGULAR, self._mode(mode), 0, 0, node.size, node.mtime / 1e9, xattrs=xattrs)
        kind = _KINDS[stat.S_IFMT(mode)]
        return Entry(
            path,
            kind,
            0o777 if kind is Kind.SYMLINK else self._mode(mode),
            mtime=node.mtime / 1e9,
            link=node.link,
            major=os.major(node.rdev) if node.rdev else 0,
            minor=os.minor(node.rdev) if node.rdev else 0,
            xattrs=self._xattrs(path, node),
        )

    def _mode(self, mode: int) -> int:
        if not self._exact and mode & 0o022 == 0o020:
            mode &= ~0o020
        return mode & 0o7777

    def _xattrs(self, path: bytes, node: Node) -> tuple[tuple[bytes, bytes], ...]:
        if node.xattrs is None:
            self._touch(path.rpartition(b"/")[0])
            fd = self._open_below(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                node.xattrs = read_xattrs(b"/proc/self/fd/%d" % fd) if not stat.S_ISLNK(node.mode) else ()
            finally:
                os.close(fd)
        return node.xattrs

    # -- digesting

    def _frame(self, path: bytes, name: bytes, fd: int, head: bytes, rule: ModeRule | None) -> _Frame:
        """What the digest of a folder needs of the folder itself. The frame owns `fd`; it is closed if there is no frame."""
        try:
            return _Frame(path, name, fd, head, self._summary(path, fd, rule))
        except BaseException:
            os.close(fd)
            raise

    def _summary(self, path: bytes, fd: int, rule: ModeRule | None) -> Summary:
        folder = self._folder(path, fd)
        view = self._view + (rule.text if rule else "")
        summary = folder.record.summaries.get(view) if folder.record is not None else None
        if summary is None:
            summary = self._summarise(path, fd, folder, rule)
            if folder.record is None:
                folder.record = FolderRecord(folder.signature, self._when, False, b"", {})
            folder.record.summaries[view] = summary
            folder.changed = True
            self._nodes(path, fd)
        return summary

    def _summarise(self, path: bytes, fd: int, folder: _Folder, rule: ModeRule | None) -> Summary:
        leaves: list[tuple[bytes, bytes]] = []
        folders: list[tuple[bytes, bytes]] = []
        shown = self._shown(path, fd)
        self._read(path, shown, fd)
        for name, node in shown.items():
            kind = stat.S_IFMT(node.mode)
            xattrs = node.xattrs or ()
            mode = self._mode(node.mode)
            if rule is not None:
                mode = rule.counted(mode, kind == stat.S_IFDIR)
            if kind == stat.S_IFREG:
                leaves.append((name, merkle.header(b"f", mode, 0, 0, xattrs) + node.digest.hex().encode()))
            elif kind == stat.S_IFDIR:
                # As BuildKit: a folder's own mode is not sent again when only it changed, so it does not count.
                folders.append((name, merkle.header(b"d", 0o755 if rule is None else rule.counted(0o755, True), 0, 0, xattrs)))
            else:
                leaves.append((name, merkle.leaf(self._entry(name, node), mode, 0, 0, "")))
        return Summary(merkle.leaves_digest(leaves), folders)

    def _read(self, path: bytes, shown: dict[bytes, Node], fd: int) -> None:
        """Fill in the digests and xattrs that are not known yet. Large files are read on several threads."""
        large: list[tuple[int, Node]] = []
        place = b"/proc/self/fd/%d/" % fd
        for name, node in shown.items():
            kind = stat.S_IFMT(node.mode)
            try:
                if node.xattrs is None:
                    node.xattrs = () if kind == stat.S_IFLNK else read_xattrs(place + name)
                if kind == stat.S_IFREG and not node.digest:
                    file = os.open(name, _FILE, dir_fd=fd)
                    if node.size >= CHUNK:
                        large.append((file, node))
                    else:
                        digest_file(file, node)
            except OSError as error:
                where = path + b"/" + name if path else name
                raise ContextUnreadable(f"cannot read {show(where)} of the build context: {error.strerror}") from error
        try:
            if len(large) == 1:
                digest_file(*large[0])
            elif large:
                from concurrent.futures import ThreadPoolExecutor

                with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                    list(pool.map(lambda job: digest_file(*job), large))
        except OSError as error:
            raise ContextUnreadable(f"cannot read a file in {show(path or b'.')} of the build context: {error.strerror}") from error


def _release(frame: _Frame) -> None:
    if frame.fd >= 0:
        os.close(frame.fd)
        frame.fd = -1


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
