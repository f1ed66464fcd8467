"""Image references: registry/repository:tag@digest, read and normalised as docker does (distribution/reference)."""

from __future__ import annotations

import re

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import Digest, parse_digest

DOCKER_IO = "docker.io"
_LONGEST = 255  # of a repository, its registry not counted (distribution/reference v0.6)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_FORM = re.compile(
    rf"(?P<name>(?:(?P<domain>{_DOMAIN})/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>[\w][\w.-]{{0,127}}))?"
    rf"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{{32,}}))?",
    re.ASCII,
)


class InvalidReference(LaminaError):
    code = "oci/invalid-reference"
    default_exit = 2


class Reference(msgspec.Struct, frozen=True):
    """`registry` is always given (docker.io for short names), `repository` without it; a tag, a digest, both or neither."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Short names get docker.io/library. No default tag. Raises InvalidReference, InvalidDigest."""
        if re.fullmatch(r"[0-9a-f]{64}", text):
            raise InvalidReference(f"{text!r} is not a name: 64 hexadecimal digits are an image id")
        domain, rest = _split(text)
        remote = re.split("[:@]", rest, maxsplit=1)[0]
        if remote.lower() != remote:
            tail = rest[len(remote) :]
            lower = text.removesuffix(tail).lower() + tail
            raise InvalidReference(f"{text!r} is not an image reference: repository names are lower case", hint=f"did you mean {lower}?")
        found = _FORM.fullmatch(f"{domain}/{rest}")
        if not found or found["domain"] != domain:
            raise InvalidReference(f"{text!r} is not an image reference", hint="for example debian:12 or registry.example/team/app:1")
        repository = found["name"][len(domain) + 1 :]
        if len(repository) > _LONGEST:
            raise InvalidReference(f"the repository name {repository[:40]}… is longer than {_LONGEST} characters")
        return cls(domain, repository, found["tag"], parse_digest(found["digest"]) if found["digest"] else None)

    def with_default_tag(self) -> Reference:
        """`latest` where neither tag nor digest is given."""
        return self if self.tag or self.digest else msgspec.structs.replace(self, tag="latest")

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """As a user would write it, and as `parse` reads it again: debian:12."""
        if self.registry != DOCKER_IO:
            return str(self)
        official = self.repository.removeprefix("library/")
        short = self.repository if "/" in official else official
        return short + str(self).removeprefix(self.name)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _split(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, rest = DOCKER_IO, text
    else:
        domain = first
    if domain == "index.docker.io":
        domain = DOCKER_IO
    if domain == DOCKER_IO and "/" not in rest:
        rest = f"library/{rest}"
    return domain, rest
