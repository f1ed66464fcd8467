"""Which names of a tree one COPY source stands for, and the content id of just these.

The id is a Merkle digest (merkle.py): a single file counts without its name, a folder with the relative names below it, several
matches of a pattern as sorted (name, digest). What --chmod or --chown override is not in it. A source that is a link is followed,
links inside of folders count by their text. Sources are cleaned by name: '..' stops at the root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import msgspec

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.layer import merkle
from lamina.layer.context import ContextTree
from lamina.layer.entry import Entry, Kind
from lamina.layer.globbing import has_wildcard, name_pattern, path_pattern
from lamina.layer.links import clean, follow
from lamina.layer.modes import ModeRule
from lamina.layer.statcache import Node
from lamina.layer.tree import FileTree

Excluded = Callable[[bytes], bool]
"""Whether a path relative to the source is left out; must also be true below an excluded folder unless an exception shows it."""


class SourceNotFound(LaminaError):
    code = "copy/source-not-found"
    default_exit = 66


class Match(msgspec.Struct, frozen=True):
    """`path` is where the thing is (links resolved), `name` the base name that the copy gets, `shown` its name in the digest."""

    path: bytes
    name: bytes
    shown: bytes
    entry: Entry


class Selection:
    """The matches of one source in a tree, narrowed by --exclude and --parents patterns."""

    def __init__(
        self,
        tree: FileTree,
        matches: tuple[Match, ...],
        *,
        pattern: bool = False,
        include: tuple[bytes, ...] = (),
        excluded: Excluded | None = None,
        mode: ModeRule | None = None,
        owned: bool = False,
    ) -> None:
        self.tree = tree
        self.matches = matches
        self.pattern = pattern
        self._include = tuple(path_pattern(text) for text in include)
        self._excluded = excluded
        self._mode = mode
        self._owned = owned
        self._narrowed: dict[bytes, list[tuple[bytes, Entry]]] = {}

    def shows(self, match: Match) -> bool:
        """Whether a match that is no folder survives --exclude."""
        return match.entry.kind is Kind.DIRECTORY or self._excluded is None or not self._excluded(match.name)

    def below(self, match: Match, relative: bytes = b"") -> Sequence[tuple[bytes, Entry]]:
        """Names and entries in a folder of the match (`relative` to it), sorted, narrowed."""
        where = _join(match.path, relative)
        if self._excluded is None and not self._include:
            tree = self.tree
            if isinstance(tree, ContextTree):
                return tree.below(where)
            found = [(name, tree.entry(_join(where, name))) for name in tree.children(where)]
            return [(name, entry) for name, entry in found if entry is not None]
        known = self._narrowed.get(where)
        if known is None:
            known = self._narrow(match, relative, not self._include)
            self._narrowed[where] = known
        return known

    def nodes(self, match: Match, relative: bytes = b"") -> Mapping[bytes, Node]:
        """What a build context knows of the names in a folder of the match; other trees know nothing beforehand."""
        tree = self.tree
        return tree.nodes(_join(match.path, relative)) if isinstance(tree, ContextTree) else {}

    def digest(self) -> str:
        """sha256 hex of the selection."""
        if not self.pattern and len(self.matches) == 1 and self.shows(self.matches[0]):
            return self._match_digest(self.matches[0]).hex()
        records = sorted((match.shown, self._match_digest(match)) for match in self.matches if self.shows(match))
        return sha256(b"lamina-matches-1\0" + b"".join(merkle.named(*record) for record in records)).hexdigest()

    def record(self, path: bytes, entry: Entry) -> bytes:
        """The Merkle record of one name that is no folder."""
        mode, uid, gid = self.counted(entry)
        return merkle.leaf(entry, mode, uid, gid, self.tree.content(path) if entry.kind in (Kind.FILE, Kind.HARDLINK) else "")

    def counted(self, entry: Entry) -> tuple[int, int, int]:
        """Mode, uid and gid as far as they are in the digest."""
        mode = entry.mode
        if self._mode is not None and entry.kind is not Kind.SYMLINK:
            mode = self._mode.counted(mode, entry.kind is Kind.DIRECTORY)
        return (mode, 0, 0) if self._owned else (mode, entry.uid, entry.gid)

    def _header(self, path: bytes, entry: Entry) -> bytes:
        if not path:  # the root's own mode and owner never count
            return merkle.header(b"d", 0o755, 0, 0, ())
        if isinstance(self.tree, ContextTree):  # modes of a context's folders do not count; those of stages and images do
            return merkle.header(b"d", 0o755 if self._mode is None else self._mode.counted(0o755, True), 0, 0, entry.xattrs)
        return merkle.header(b"d", *self.counted(entry), entry.xattrs)

    def _match_digest(self, match: Match) -> bytes:
        if match.entry.kind is not Kind.DIRECTORY:
            return merkle.leaf_digest(self.record(match.path, match.entry))
        if isinstance(self.tree, ContextTree) and self._excluded is None and not self._include:
            return self.tree.digest(match.path, self._header(match.path, match.entry), self._mode)
        return self._folder_digest(match, b"", self._header(match.path, match.entry))

    def _folder_digest(self, match: Match, relative: bytes, head: bytes) -> bytes:
        """A folder's digest is made after those of its folders; by a list, because folders may be deeper than calls."""
        begun: list[tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]]] = []  # parent, name, digest so far, digests of folders
        found: dict[bytes, list[tuple[bytes, bytes]]] = {relative: []}
        todo = [(relative, head)]
        while todo:
            here, top = todo.pop()
            leaves: list[tuple[bytes, bytes]] = []
            for name, entry in self.below(match, here):
                inner = _join(here, name)
                path = _join(match.path, inner)
                if entry.kind is Kind.DIRECTORY:
                    found[inner] = []
                    todo.append((inner, self._header(path, entry)))
                else:
                    leaves.append((name, self.record(path, entry)))
            begun.append((here, top, merkle.leaves_digest(leaves), found[here]))
        digest = b""
        for here, top, own, folders in reversed(begun):  # what is in a folder was begun after it
            digest = merkle.folder_digest(top, own, folders)
            if here != relative:
                parent, _, name = here.rpartition(b"/")
                found[parent].append((name, digest))
        return digest

    def _narrow(self, match: Match, relative: bytes, included: bool) -> list[tuple[bytes, Entry]]:
        """`included`: a pattern took this folder as a whole. Folders that only lead to something stay if something is there."""
        begun: list[tuple[bytes, list[tuple[bytes, Entry, bool]]]] = []  # folder, (name, entry, whether it stays for its own sake)
        todo = [(relative, included)]
        while todo:
            here, whole = todo.pop()
            where = _join(match.path, here)
            names: list[tuple[bytes, Entry, bool]] = []
            for name in self.tree.children(where):
                entry = self.tree.entry(_join(where, name))
                if entry is None:
                    continue
                inner = _join(here, name)
                taken = whole or any(pattern.match(inner) for pattern in self._include)
                names.append((name, entry, taken and not (self._excluded is not None and self._excluded(inner))))
                if entry.kind is Kind.DIRECTORY:
                    todo.append((inner, taken))
            begun.append((where, names))
        for where, names in reversed(begun):  # what is in a folder was begun after it
            self._narrowed[where] = [
                (name, entry)
                for name, entry, stays in names
                if stays or (entry.kind is Kind.DIRECTORY and self._narrowed[_join(where, name)])
            ]
        return self._narrowed[_join(match.path, relative)]


def select(
    tree: FileTree,
    source: bytes | str,
    *,
    wildcard: bool = True,
    include: Sequence[str | bytes] = (),
    excluded: Excluded | None = None,
    follow_symlink: bool = True,
    required: bool = True,
    mode: ModeRule | None = None,
    owned: bool = False,
) -> Selection:
    """Find what `source` stands for. SourceNotFound when a plain path is not there, or the folder that a pattern looks into; a pattern
    that matches nothing in it stands for nothing (`COPY package.json yarn.lock* ./`), as with BuildKit.

    `required` (--parents): something must be there that `include` takes.
    `owned`: --chown overrides the owner. `include` (--parents) narrows a folder to patterns and keeps what leads there.
    """
    raw = source.encode("utf-8", "surrogateescape") if isinstance(source, str) else source
    path = clean(raw)
    is_pattern = wildcard and has_wildcard(path)
    if is_pattern:
        matches = tuple(_glob(tree, path, follow_symlink))
    else:
        found = _match(tree, path, path.rpartition(b"/")[2], b"", follow_symlink)
        matches = (found,) if found is not None else ()
        if not matches:
            raise _missing(tree, path, raw)
    patterns = tuple(p.encode("utf-8", "surrogateescape") if isinstance(p, str) else p for p in include)
    selection = Selection(tree, matches, pattern=is_pattern, include=patterns, excluded=excluded, mode=mode, owned=owned)
    if patterns and required and not any(selection.below(match) for match in matches if match.entry.kind is Kind.DIRECTORY):
        inside = _join(path, patterns[0])
        raise _nothing(inside) if has_wildcard(inside) else _missing(tree, inside, inside)
    return selection


def _match(tree: FileTree, path: bytes, name: bytes, shown: bytes, follow_symlink: bool) -> Match | None:
    where: bytes | None = path
    if follow_symlink:
        where = tree.resolve(path)
    elif path:
        parent, _, last = path.rpartition(b"/")
        above = tree.resolve(parent)
        where = None if above is None else _join(above, last)
    entry = None if where is None else tree.entry(where)
    if where is None or entry is None:
        return None
    return Match(where, name, shown, entry)


def _glob(tree: FileTree, pattern: bytes, follow_symlink: bool) -> list[Match]:
    """Go's filepath.Match over the tree: as many components as the pattern has; links are not followed between patterns."""
    parts = pattern.split(b"/")
    fixed = 0
    while not has_wildcard(parts[fixed]):
        fixed += 1
    start = tree.resolve(b"/".join(parts[:fixed]))
    if start is None and fixed == len(parts) - 1:
        folder = b"/".join(parts[:fixed])
        raise _missing(tree, folder, b"/" + folder)
    if start is None:
        return []
    entry = tree.entry(start)
    if start != b"" and (entry is None or entry.kind is not Kind.DIRECTORY):
        return []
    level = [(start, b"")]  # folders that the pattern leads to so far, with their names in the digest; in order
    for part in parts[fixed:-1]:
        regex = name_pattern(part)
        inside = [(_join(where, name), _join(shown, name)) for where, shown in level for name in tree.children(where) if regex.match(name)]
        level = []
        for path, shown in inside:
            entry = tree.entry(path)
            if entry is not None and entry.kind is Kind.DIRECTORY:
                level.append((path, shown))
    found: list[Match] = []
    regex = name_pattern(parts[-1])
    for where, relative in level:
        for name in tree.children(where):
            if regex.match(name):
                match = _match(tree, _join(where, name), name, _join(relative, name), follow_symlink)
                if match is None:
                    raise SourceNotFound(f"{_text(_join(where, name))} is a link to nothing")
                found.append(match)
    return found


def _nothing(pattern: bytes) -> SourceNotFound:
    return SourceNotFound(f"no file matches {_text(pattern)!r}")


def _missing(tree: FileTree, path: bytes, raw: bytes) -> SourceNotFound:
    shown = _text(raw)
    if isinstance(tree, ContextTree) and tree.hidden(path):
        return SourceNotFound(
            f"{shown!r} is excluded from the build context by its ignore file",
            hint="add an exception ('!…') to .dockerignore, or copy something else",
        )
    entry = _entry_or_none(tree, path)
    if entry is not None and entry.kind is Kind.SYMLINK:
        return SourceNotFound(f"{shown!r} is a link to {_text(entry.link)!r}, which is not there")
    parts = path.split(b"/")
    base = b""
    for index, part in enumerate(parts):
        here = _join(base, part)
        if _entry_or_none(tree, here) is None or index == len(parts) - 1:
            names = [_text(name) for name in tree.children(follow(tree.entry, base) or b"")]
            guess = nearest(_text(part), names)
            if guess is not None:
                rest = [_text(p) for p in parts[index + 1 :]]
                return SourceNotFound(
                    f"{shown!r} does not exist", hint=f"did you mean {'/'.join([*filter(None, [_text(base)]), guess, *rest])!r}?"
                )
            break
        base = here
    return SourceNotFound(f"{shown!r} does not exist")


def _entry_or_none(tree: FileTree, path: bytes) -> Entry | None:
    try:
        return tree.entry(path)
    except LaminaError:
        return None


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder and name else folder or name


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
