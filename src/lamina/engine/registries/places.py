"""Where an image is: a registry, an OCI layout (directory or archive), docker's archive, or a name of the store. skopeo's words."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from lamina.diagnostics.errors import LaminaError

Kind = Literal["docker", "oci", "oci-archive", "docker-archive", "store"]


class BadPlace(LaminaError):
    """Text that names no place for an image."""

    code = "image/bad-place"
    default_exit = 2


class Place(msgspec.Struct, frozen=True):
    """`name`: a reference (docker, docker-archive, store), a tag or @digest (oci, oci-archive), or empty. `path` for files only."""

    kind: Kind
    name: str = ""
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is None:
            return f"docker://{self.name}" if self.kind == "docker" else self.name
        return f"{self.kind}:{self.path}" + (self.name if self.name.startswith("@") else f":{self.name}" if self.name else "")

    @property
    def file(self) -> Path:
        """The path of a kind that has one."""
        assert self.path is not None
        return self.path


def parse_place(text: str) -> Place:
    """`docker://REFERENCE`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`; anything else is a name or id of the
    store. Raises BadPlace."""
    scheme, colon, rest = text.partition(":")
    if scheme == "docker" and rest.startswith("//"):
        if not rest[2:]:
            raise BadPlace(f"{text!r} names no image", hint="for example docker://registry.example/team/app:1")
        return Place("docker", rest[2:])
    if colon and scheme in ("oci", "oci-archive", "docker-archive"):
        path, name = _split(rest)
        if not path:
            raise BadPlace(f"{text!r} names no file", hint=f"for example {scheme}:app" + ("" if scheme == "oci" else ".tar"))
        kind: Kind = "oci" if scheme == "oci" else "oci-archive" if scheme == "oci-archive" else "docker-archive"
        return Place(kind, name, Path(path))
    if "://" in text:
        raise BadPlace(f"{text!r}: there is no kind of place {scheme!r}", hint="docker://, oci:, oci-archive:, docker-archive:, or a name")
    if not text:
        raise BadPlace("the name of an image is empty")
    return Place("store", text)


def _split(text: str) -> tuple[str, str]:
    """PATH[:NAME]: the first colon ends the path, as in skopeo; `@sha256:…` belongs to the name."""
    path, at, digest = text.partition("@")
    if at and digest.startswith("sha"):
        return path, "@" + digest
    path, _, name = text.partition(":")
    return path, name
