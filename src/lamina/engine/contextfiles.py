"""The Dockerfile and the ignore file of a context: which they are, and their text."""

from __future__ import annotations

import re
from pathlib import Path

from lamina.diagnostics.errors import LaminaError, nearest


class NoDockerfile(LaminaError):
    code = "engine/no-dockerfile"
    default_exit = 2


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
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
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
