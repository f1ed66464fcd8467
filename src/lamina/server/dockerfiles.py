"""The Dockerfile of a request, checked as far as that is possible before a build: errors with docker's words."""

from __future__ import annotations

import os
from pathlib import Path

from lamina.dockerfile.instructions import Document
from lamina.server.errors import BadRequest

_LIMIT = 16 << 20  # bytes; what is larger is no Dockerfile


def read_below(folder: Path, path: str) -> str | None:
    """A file's text; None when there is none. Links lead where they lead inside the folder, and nowhere else."""
    root = os.path.realpath(folder)
    real = os.path.realpath(os.path.join(root, path.lstrip("/")))
    if not real.startswith(root + os.sep) or not os.path.isfile(real):
        return None
    with open(real, "rb") as file:
        return file.read(_LIMIT).decode("utf-8", "surrogateescape")


def checked(text: str, name: str, target: str | None) -> Document:
    """BadRequest."""
    from lamina.dockerfile import parse

    if not text.strip():
        raise BadRequest(f"the Dockerfile ({name}) cannot be empty")
    document = parse(text, name)
    for error in document.errors:
        if error.code == "dockerfile/no-stage" or (not document.stages and error.span is None):
            raise BadRequest("no build stage in current context")
        line = f" line {error.span.line}" if error.span is not None else ""
        message = error.message.replace("unknown instruction ", "unknown instruction: ")
        if not document.stages and "FROM" in message:
            message = f"no build stage in current context: {message}"
        raise BadRequest(f"dockerfile parse error{line}: {message}" + (f" ({error.hint})" if error.hint else ""))
    if target is not None:
        names = [stage.name for stage in document.stages]
        if target.lower() not in names and not (target.isdecimal() and int(target) < len(names)):
            raise BadRequest(f"failed to reach build target {target} in Dockerfile")
    return document


def shown_command(text: str) -> str:
    """The command of a RUN as docker's errors have it."""
    words = text.partition(" ")[2].split()
    while words and words[0].startswith("--"):
        words.pop(0)
    return " ".join(words) if words and words[0].startswith("[") else "/bin/sh -c " + " ".join(words)
