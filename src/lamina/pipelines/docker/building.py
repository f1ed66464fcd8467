"""`docker build`: the context as a tar, what the engine says as docker prints it."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lamina.dockerfile.ignore import IgnoreDirectory, IgnoreRules
from lamina.pipelines.docker.api import PIECE, Answer, packed
from lamina.pipelines.docker.options import HINT, Given, Usage, parse
from lamina.pipelines.docker.session import Session
from lamina.pipelines.run.shell import CLONE

_STDIN = ".dockerfile.stdin"
_VALUED = (
    "-t|--tag -f|--file --build-arg --target --label --network --platform --cache-from --iidfile --add-host --shm-size --ulimit --progress "
    "-m|--memory --memory-swap --cpu-shares --cpuset-cpus --cpu-quota --cpu-period --isolation --security-opt"
)
_SWITCHES = "-q|--quiet --no-cache --pull --rm --force-rm --compress --disable-content-trust"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def build(session: Session, words: list[str]) -> int:
    given = parse("build", words, _VALUED, _SWITCHES)
    if len(given.rest) != 1:
        raise Usage("docker build takes one context: a folder, or - for standard input")
    place = given.rest[0]
    if "://" in place or place.startswith("git@"):
        raise Usage("docker build: a context at an address is not known to lamina's docker", hint="clone it first")
    query, context = _query(session, given), _context(session, place, given.last("-f"))
    query.append(("dockerfile", context.dockerfile))
    headers = {"X-Registry-Config": packed(session.every_login())}
    with session.engine.ask("POST", "/build", query, body=context.tar, kind="application/x-tar", headers=headers) as answer:
        withdraw = session.call.on_stop(answer.close)
        try:
            return _show(session, answer, given)
        finally:
            withdraw()


class _Context:
    def __init__(self, tar: Iterator[bytes], dockerfile: str) -> None:
        self.tar = tar
        self.dockerfile = dockerfile


def _query(session: Session, given: Given) -> list[tuple[str, str]]:
    args: dict[str, str | None] = {}
    for text in given.every("--build-arg"):
        name, equals, value = text.partition("=")
        args[name] = value if equals else session.call.variable(name)
    labels = dict(text.partition("=")[::2] for text in given.every("--label"))
    query = [("t", name) for name in given.every("-t")]
    query += [("buildargs", json.dumps(args))] if args else []
    query += [("labels", json.dumps(labels))] if labels else []
    query += [("cachefrom", json.dumps(given.every("--cache-from")))] if given.every("--cache-from") else []
    query += [("extrahosts", host) for host in given.every("--add-host")]
    for option, name in (("--target", "target"), ("--network", "networkmode"), ("--platform", "platform")):
        if given.last(option):
            query.append((name, given.last(option)))
    for option, name in (("-q", "q"), ("--no-cache", "nocache"), ("--pull", "pull")):
        if given.on(option):
            query.append((name, "1"))
    return query


def _context(session: Session, place: str, dockerfile: str) -> _Context:
    call = session.call
    if place == "-":
        if dockerfile:
            raise Usage("docker build: -f and a context from standard input exclude each other")
        pieces = call.stdin()
        first = next(pieces, b"")
        if _is_tar(first):
            return _Context(_chained(first, pieces), "Dockerfile")
        text = first + b"".join(pieces)
        return _Context(iter((_member(_STDIN, text), bytes(2 * tarfile.BLOCKSIZE))), _STDIN)
    extra: list[tuple[str, bytes]] = []
    if dockerfile == "-":
        extra.append((_STDIN, b"".join(call.stdin())))
        name = _STDIN
    else:
        folder = os.path.normpath(call.absolute(place))
        named = os.path.normpath(call.absolute(dockerfile)) if dockerfile else ""
        name = os.path.relpath(named, folder) if named else "Dockerfile"
        if name.startswith("../") or name == "..":
            found = call.file(named)
            if found is None:
                raise Usage(
                    f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {named}: no such file or directory"
                )
            extra.append((_STDIN, b"".join(found)))
            name = _STDIN
    here = _inside(session.clone, os.path.normpath(call.absolute(place)))
    if here is not None:
        return _Context(_gathered(_pack(here, name, extra)), name)
    told = call.folder(place)
    if told is None:
        raise Usage(f"unable to prepare context: path {place!r} not found, or the image has no tar to pack it")
    if extra:
        raise Usage("docker build: a Dockerfile from outside of a context that lies outside of the clone directory", hint=HINT)
    return _Context(told, name)


def _is_tar(data: bytes) -> bool:
    return data[257:262] == b"ustar" or data[:2] == b"\x1f\x8b" or data[:3] == b"BZh" or data[:6] == b"\xfd7zXZ\0"


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Headers and small files together: each piece is a chunk of the request."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _inside(clone: Path, place: str) -> int | None:
    """A descriptor of the folder, when it lies below the clone directory and no link is on the way."""
    if place != CLONE and not place.startswith(CLONE + "/"):
        return None
    here = os.open(clone, _FOLDER)
    for part in [part for part in place.removeprefix(CLONE).split("/") if part]:
        try:
            below = os.open(part, _FOLDER, dir_fd=here)
        except OSError:
            return None
        finally:
            os.close(here)
        here = below
    return here


def _pack(root: int, dockerfile: str, extra: list[tuple[str, bytes]]) -> Iterator[bytes]:
    """The folder as a tar, without what .dockerignore names. Closes `root`. Folders are entered by descriptor: a link that replaces one meanwhile is not followed."""
    always = {dockerfile, "Dockerfile", ".dockerignore"}  # as docker's client: the engine needs them, and leaves them out itself
    for name, data in extra:
        yield _member(name, data)
    queue: list[tuple[int, IgnoreDirectory]] = [(root, _rules(root).root())]
    try:
        while queue:
            folder, rules = queue.pop()
            try:
                for name in sorted(os.listdir(folder)):
                    path = f"{rules.path}/{name}" if rules.path else name
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        below = rules.directory(name)
                        if not below.ignored:
                            yield _head(path, found)
                        if not below.skip:
                            queue.append((os.open(name, _FOLDER, dir_fd=folder), below))
                    elif path not in always and rules.file(name):
                        continue
                    elif stat.S_ISLNK(found.st_mode):
                        yield _head(path, found, os.readlink(name, dir_fd=folder))
                    elif stat.S_ISREG(found.st_mode):
                        yield from _file(path, os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder))
            finally:
                os.close(folder)
    finally:
        for folder, _ in queue:
            os.close(folder)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _file(path: str, descriptor: int) -> Iterator[bytes]:
    """Header and bytes; a file that shrinks meanwhile is filled up, one that grows is cut."""
    with open(descriptor, "rb", buffering=0) as file:
        found = os.fstat(descriptor)
        yield _head(path, found)
        left = found.st_size
        while left:
            data = file.read(min(left, PIECE)) or bytes(min(left, PIECE))
            left -= len(data)
            yield data
        yield bytes(-found.st_size % tarfile.BLOCKSIZE)


def _head(path: str, found: os.stat_result, link: str = "") -> bytes:
    info = tarfile.TarInfo(path)
    info.mode, info.mtime, info.linkname = stat.S_IMODE(found.st_mode), found.st_mtime, link
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif link:
        info.type = tarfile.SYMTYPE
    else:
        info.size = found.st_size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _rules(root: int) -> IgnoreRules:
    try:
        with open(os.open(".dockerignore", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root), "rb") as file:
            return IgnoreRules.parse(file.read(1 << 20).decode(errors="surrogateescape"))
    except OSError:
        return IgnoreRules(())


def _show(session: Session, answer: Answer, given: Given) -> int:
    image = ""

    def rows() -> Iterator[dict[str, object]]:
        nonlocal image
        for row in answer.rows():
            aux = row.get("aux")
            if isinstance(aux, dict) and aux.get("ID"):
                image = str(aux["ID"])
            yield row

    code = session.show(rows(), quiet=False)
    if not code and given.last("--iidfile") and image:
        with session.call.writing(given.last("--iidfile")) as write:
            write(image.encode())
    return code
