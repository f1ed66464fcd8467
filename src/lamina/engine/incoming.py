"""Contexts that are no directory here: an archive on standard input or behind a URL, a git repository, a Dockerfile alone.

As in BuildKit no .dockerignore is looked at: it says what is not sent from a local folder, and here nothing is sent. Files of an archive keep
the owners and times that it states; a repository's files belong to root.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.engine.contextfiles import DOCKERFILE_LIMIT, NoDockerfile
from lamina.graph.ops import GitOp, HttpOp
from lamina.layer.copying import Target
from lamina.layer.tree import FileTree
from lamina.layer.unpacking import allowed, looks_packed, unpack
from lamina.layer.view import LayerView
from lamina.layer.writer import EntryWriter

if TYPE_CHECKING:
    from lamina.engine.request import BuildRequest
    from lamina.engine.surroundings import Surroundings


class BadContext(LaminaError):
    """The place gives no context, or not the folder in it that was asked for."""

    code = "engine/context"
    default_exit = 2


def receive(request: BuildRequest, around: Surroundings) -> BuildRequest:
    """The request with the Dockerfile's text; its files stand under the name "context" in `around.contexts`.

    Raises BadContext, NoDockerfile, CopyFailed for a damaged or hostile archive, and what fetching raises.
    """
    incoming = request.incoming
    assert incoming is not None
    text: str | None = None
    if incoming.archive is not None:
        with open(os.dup(incoming.archive), "rb") as archive:
            archive.seek(0)
            tree, label = _unpacked(archive, around, "archive"), "archive"
    elif incoming.place is not None:
        tree, label, text = _fetched(incoming.place, request, around)
    else:
        tree, label = _nothing(around), "build context"
    around.contexts.give("context", tree, label)
    if incoming.dockerfile is None:  # it came by another way
        return request
    if text is None:
        text = _dockerfile(tree, incoming.dockerfile, label)
    return msgspec.structs.replace(request, dockerfile_text=text, dockerfile_name=incoming.dockerfile)


def receive_named(name: str, place: str, request: BuildRequest, around: Surroundings) -> None:
    """`--build-context NAME=URL`: the same under its own name."""
    tree, label, text = _fetched(place, request, around)
    if text is not None:
        raise BadContext(f"--build-context {name}={_plain(place)}: neither a repository nor an archive")
    around.contexts.give(name, tree, f"context {name} ({label})")


def _fetched(place: str, request: BuildRequest, around: Surroundings) -> tuple[FileTree, str, str | None]:
    """(files, what they are called, the Dockerfile's text when the URL is just that)."""
    from lamina.engine.runners import git

    url = git.parse_git_url(place)
    if url is not None:
        keep = url.keep_git_dir
        if keep is None:
            keep = (request.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") or "") in ("1", "true")
        op = GitOp(url.remote, url.ref, url.subdir, keep and not url.subdir, url.checksum, url.submodules is not False)
        found = around.sources.result(op)
        commit = (found.id or "").partition(":")[0]
        return around.sources.tree(op), f"{_plain(url.remote)} at {commit[:12]}", None
    if not place.startswith(("http://", "https://")):
        raise BadContext(f"the context {_plain(place)!r} is neither a repository nor an http URL")
    file = HttpOp(place, "context")
    around.sources.result(file)
    with around.sources.tree(file).open(b"context") as data:
        head = data.read(512)
        data.seek(0)
        if looks_packed(head):
            return _unpacked(data, around, "download"), _plain(place), None
        return _nothing(around), _plain(place), _text(data, _plain(place))


def _unpacked(data: BinaryIO, around: Surroundings, name: str) -> FileTree:
    """An archive's files as a layer of their own: below its folder's descriptor, owners beside it where this user cannot give them."""
    folder = _folder(around, name)
    flavour = around.store.flavour
    with EntryWriter(folder, flavour) as writer:
        unpack(Target(None, writer, around.now()), data, b"", allowed(os.fstat(data.fileno()).st_size))
    return LayerView([folder], flavour)


def _nothing(around: Surroundings) -> FileTree:
    return LayerView([_folder(around, "nothing")], around.store.flavour)


def _folder(around: Surroundings, name: str) -> Path:
    folder = around.sources.folder(name)
    (folder / "diff").mkdir(mode=0o755)
    return folder


def _dockerfile(tree: FileTree, name: str, label: str) -> str:
    path = "/".join(part for part in name.split("/") if part not in ("", ".")).encode("utf-8", "surrogateescape")
    found = tree.resolve(path)
    entry = tree.entry(found) if found is not None else None
    if found is None or entry is None or not _is_file(entry.kind):
        parent = path.rpartition(b"/")[0]
        known = [os.fsdecode(child) for child in _names(tree, parent)]
        near = nearest(os.fsdecode(path.rpartition(b"/")[2]), known)
        raise NoDockerfile(f"there is no {name} in {label}", hint=f"did you mean {near}?" if near else "name it with -f FILE")
    with tree.open(found) as data:
        return _text(data, name)


def _is_file(kind: object) -> bool:
    from lamina.layer.entry import Kind

    return kind in (Kind.FILE, Kind.HARDLINK)


def _names(tree: FileTree, path: bytes) -> list[bytes]:
    folder = tree.resolve(path)
    try:
        return [] if folder is None else list(tree.children(folder))
    except LaminaError:
        return []


def _text(data: BinaryIO, name: str) -> str:
    raw = data.read(DOCKERFILE_LIMIT + 1)
    if len(raw) > DOCKERFILE_LIMIT or b"\0" in raw:
        raise BadContext(f"{name} is neither an archive nor a Dockerfile", hint="plain tar, or tar with gzip, bzip2, xz or zstd")
    return raw.decode("utf-8", "surrogateescape")


def _plain(text: str) -> str:
    """Without a password or query, which may be secret."""
    return re.sub(r"(://)[^/@\s]*@", r"\1", text).partition("?")[0]
