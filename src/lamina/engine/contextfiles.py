"""The Dockerfile and the ignore file of a context: which they are, and their text."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from lamina.diagnostics.errors import LaminaError, nearest

DOCKERFILE_LIMIT = 16 << 20  # bytes; more is some other file, or a device that never ends


class NoDockerfile(LaminaError):
    code = "engine/no-dockerfile"
    default_exit = 2


def text_of(data: BinaryIO, name: str, head: bytes = b"") -> str:
    """A Dockerfile's text: `head`, which was read already, and the rest of the stream. NoDockerfile for what cannot be one: by size, or a byte 0."""
    raw = head + data.read(DOCKERFILE_LIMIT + 1)
    if len(raw) > DOCKERFILE_LIMIT:
        raise NoDockerfile(f"{name} is no Dockerfile: it is larger than {DOCKERFILE_LIMIT >> 20} MiB")
    if b"\0" in raw:
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        hint = "it is in UTF-16: save it in UTF-8" if wide else None
        raise NoDockerfile(f"{name} is no Dockerfile: it has bytes that no text has", hint=hint)
    return raw.decode("utf-8", "surrogateescape")


def is_remote(place: str) -> bool:
    """Whether a context's name is a URL or a repository, by its form alone (docker's rule)."""
    schemes = ("http://", "https://", "git://", "ssh://", "file://", "github.com/")
    return place.startswith(schemes) or re.match(r"[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:", place) is not None


def read_dockerfile(context: Path, given: Path | None, text: str | None = None) -> tuple[str, str, str | None, str]:
    """(name, text, text of the ignore file or None, its name).

    `given` is relative to the working directory (docker's rule), default context/Dockerfile. `text`: it was read already (standard
    input). NAME.dockerignore beside the Dockerfile goes before the context's .dockerignore. Raises NoDockerfile.
    """
    if text is not None:
        name, path = "<stdin>", None
    else:
        path = given or context / "Dockerfile"
        try:
            if stat.S_ISSOCK(path.stat().st_mode):
                raise NoDockerfile(f"{path} is a socket, not a Dockerfile")
            with path.open("rb") as data:
                text = text_of(data, str(path))
        except FileNotFoundError:
            if path.is_symlink():
                raise NoDockerfile(f"{path} is a link to {os.readlink(path)}, which is not there") from None
            near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
            raise NoDockerfile(f"there is no {path}", hint=f"did you mean {near}?" if near else "name it with -f FILE") from None
        except IsADirectoryError:
            raise NoDockerfile(f"{path} is a folder, not a Dockerfile") from None
        try:
            name = str(path.absolute().relative_to(context.absolute()))
        except ValueError:
            name = path.name
    for candidate in places(context, path)[1:] if path is not None else [context / ".dockerignore"]:
        try:
            return name, text, candidate.read_text(encoding="utf-8", errors="surrogateescape"), candidate.name
        except (FileNotFoundError, NotADirectoryError):
            continue
    return name, text, None, ".dockerignore"


def places(context: Path, given: Path | None) -> list[Path]:
    """Where the Dockerfile is read from, and then where its ignore file is looked for: the first that is there counts."""
    path = given or context / "Dockerfile"
    return [path, path.with_name(path.name + ".dockerignore"), context / ".dockerignore"]
