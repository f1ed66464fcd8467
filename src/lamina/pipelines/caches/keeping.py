"""What both kinds of cache have in common: identity, the key over files, the plug point."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from lamina.pipelines.globs import GlobError, compile_glob
from lamina.pipelines.model import Cache
from lamina.pipelines.run.files import walk

DOCKER = "docker"
WEEK = 7 * 86400.0
Say = Callable[[str], None]


class CacheUse(msgspec.Struct, frozen=True):
    """What became of one cache of one step. `verdict`: hit, miss, shared (the build cache), or out (left out). `reason` and `saved` as the log has them."""

    name: str
    verdict: str
    reason: str
    saved: str = ""


class Told:
    """A `Say` that passes lines on and remembers the reasons among them."""

    def __init__(self, name: str, say: Say) -> None:
        self._name = name
        self._say = say
        self._verdict, self._reason, self._saved = "out", "", ""

    def __call__(self, line: str) -> None:
        self._say(line)
        head, colon, rest = line.partition('": ')
        if not colon or not head.startswith(f'Cache "{self._name}'):
            return
        word = rest.partition(":")[0]
        if word in ("hit", "miss", "shared"):
            self._verdict, self._reason = word, rest.partition(": ")[2]
        elif word in ("not used",) or rest.startswith(("its path", "is reached")):
            self._reason = rest
        elif rest.startswith(("saved", "not saved", "Skipping upload", "Upload failed", "Uploaded")):
            self._saved = rest

    def use(self) -> CacheUse:
        return CacheUse(self._name, self._verdict, self._reason, self._saved)


class Identity(msgspec.Struct, frozen=True):
    """`key` is empty for a cache without key files; `key_files` are what it was made of, by path. `path` as written in the file."""

    name: str
    path: str
    key: str = ""
    key_files: Mapping[str, str] = {}


class Held(Protocol):
    """A cache between setup and teardown."""

    def save(self, folder: Path, say: Say) -> None:
        """After a successful step. Never raises for what the cache holds: a cache that cannot be saved is said."""
        ...


class CacheKeeper(Protocol):
    """Thread-safe, also between processes."""

    def restore(self, identity: Identity, folder: Path, step: str, say: Say) -> Held:
        """Fill `folder`, which exists."""
        ...


def identify(cache: Cache, clone: Path) -> Identity:
    """The key is the hash over names and contents of the files that match; a pattern that matches nothing counts by its text."""
    if not cache.key_files:
        return Identity(cache.name, cache.path)
    found: dict[str, str] = {}
    patterns = []
    for text in (one.value for one in cache.key_files):
        try:
            patterns.append((text, compile_glob(text.removeprefix("./"))))
        except GlobError:
            found[text] = "cannot be read"
    matched: set[str] = set()
    for path, status in walk(clone):
        if path.startswith(".git/") or not stat.S_ISREG(status.st_mode):
            continue
        for text, glob in patterns:
            if glob.matches(path):
                matched.add(text)
                found[path] = _digest(clone / path)
    for text, _ in patterns:
        if text not in matched:
            found[text] = "is not there"
    digest = hashlib.sha256(msgspec.json.encode(sorted(found.items()))).hexdigest()
    return Identity(cache.name, cache.path, digest, found)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What made a key another one, in words."""
    said = []
    for path in sorted({*mine, *theirs}):
        if mine.get(path) != theirs.get(path):
            said.append(f"{path} {'changed' if path in mine and path in theirs else 'is new' if path in mine else 'is gone'}")
    return said


def megabytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count != 1 else ''} ago"
    return "just now"
