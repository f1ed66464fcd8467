"""lamina.lock: the digest of every base image and URL and the commit of every repository that a build uses. With `--locked` a build takes
these and nothing else; what does not agree is one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.origins import BaseUse, GitUse, UrlUse, bases_of, gits_of, urls_of
from lamina.engine.freshness.recipe import plain_url
from lamina.graph.ops import GitOp, HttpOp
from lamina.graph.vertex import walk
from lamina.oci import typed
from lamina.oci.digest import Digest, InvalidDigest, parse_digest
from lamina.oci.unreadable import UNREADABLE
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.dockerfile.lower import Lowered
    from lamina.engine.freshness.origins import Origin
    from lamina.engine.surroundings import Surroundings

NAME = "lamina.lock"
_VERSION = 1
_LIMIT = 8 << 20  # bytes
_HINT = "`lamina lock` writes it anew"


class BadLock(LaminaError):
    code = "freshness/bad-lock"
    default_exit = 2


class Drift(LaminaError):
    """The build needs something else than the lock file says."""

    code = "freshness/drift"
    default_exit = 65


class Lock(msgspec.Struct, frozen=True):
    """Keys: a normalised reference with its tag; `URL#REF` of a repository; a URL without its password."""

    images: dict[str, Digest] = {}
    git: dict[str, str] = {}
    urls: dict[str, str] = {}
    version: int = _VERSION

    def image(self, reference: str) -> Digest:
        """Drift for what is not locked; likewise below."""
        found = self.images.get(reference)
        if found is None:
            raise _missing(reference)
        return found

    def commit(self, url: str, ref: str) -> str:
        found = self.git.get(_git_key(plain_url(url), ref))
        if found is None:
            raise _missing(_git_key(plain_url(url), ref))
        return found

    def check_url(self, url: str, digest: str) -> None:
        key = plain_url(url)
        found = self.urls.get(key)
        if found is None:
            raise _missing(key)
        if found != digest:
            raise Drift(f"{key} has changed since it was locked: {found[:19]} -> {digest[:19]}", hint=_HINT)


def lock_of(bases: Sequence[BaseUse], urls: Sequence[UrlUse], gits: Sequence[GitUse]) -> Lock:
    """What a build used. A base given by digest, or read from a layout, needs no lock."""
    return Lock(
        images={use.reference: use.top or use.manifest for use in bases if "@" not in use.reference and "://" not in use.reference},
        git={_git_key(use.url, use.ref): use.commit for use in gits},
        urls={use.url: use.digest for use in urls},
    )


def lock_now(store: LocalStore, around: Surroundings, lowered: Lowered) -> Lock:
    """What the graph needs: its bases are known, its URLs and repositories are asked now."""
    for vertex in walk((lowered.target,)):
        if isinstance(vertex.op, (HttpOp, GitOp)):
            around.sources.result(vertex.op)
    return lock_of(bases_of(store, around), urls_of(around), gits_of(around))


def lock_of_origins(origins: Sequence[Origin]) -> Lock:
    return lock_of(
        [use for origin in origins for use in origin.bases],
        [use for origin in origins for use in origin.urls],
        [use for origin in origins for use in origin.gits],
    )


def merged(old: Lock, new: Lock) -> Lock:
    """`new`, and what only `old` has (other targets)."""
    return Lock({**old.images, **new.images}, {**old.git, **new.git}, {**old.urls, **new.urls})


def read_lock(path: Path) -> Lock:
    """BadLock for what is no lock file."""
    try:
        raw = path.read_bytes()[: _LIMIT + 1]
    except FileNotFoundError:
        raise BadLock(f"there is no {path}", hint="`lamina lock` writes it") from None
    except OSError as error:
        raise BadLock(f"cannot read {path}: {error.strerror or error}") from error
    try:
        lock = typed.json(raw, type=Lock)
        for digest in lock.images.values():
            parse_digest(digest)
    except (*UNREADABLE, InvalidDigest) as error:
        raise BadLock(f"{path} is no lock file: {error}", hint=_HINT) from error
    if lock.version != _VERSION:
        raise BadLock(f"{path} has version {lock.version}; this lamina reads version {_VERSION}")
    return lock


def write_lock(path: Path, lock: Lock) -> bool:
    """Replace `path` in one step; False when it says so already."""
    from lamina.engine.exporters.place import replacing

    document = {
        "version": lock.version,
        **{name: dict(sorted(getattr(lock, name).items())) for name in ("images", "git", "urls")},
    }
    data = msgspec.json.format(typed.encode_json(document), indent=2) + b"\n"
    try:
        if path.read_bytes() == data:
            return False
    except OSError:
        pass
    with replacing(path) as out:
        out.write(data)
    return True


def changes(old: Lock, new: Lock) -> list[str]:
    """One line for each entry that is new, gone or different."""
    lines = []
    for kind in ("images", "git", "urls"):
        before: dict[str, str] = getattr(old, kind)
        after: dict[str, str] = getattr(new, kind)
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was is None and now is not None:
                lines.append(f"+ {name} {_short(now)}")
            elif now is None and was is not None:
                lines.append(f"- {name} {_short(was)}")
            elif was != now and was is not None and now is not None:
                lines.append(f"~ {name} {_short(was)} -> {_short(now)}")
    return lines


def _short(text: str) -> str:
    return text.rpartition(":")[2][:12]


def _git_key(url: str, ref: str) -> str:
    return f"{url}#{ref}" if ref else url


def _missing(name: str) -> Drift:
    return Drift(f"{name} is not in {NAME}", hint=_HINT)
