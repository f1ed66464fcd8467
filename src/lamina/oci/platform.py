"""Platforms: os/architecture/variant, normalised as containerd does (platforms/database.go)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.diagnostics.errors import LaminaError

_WORD = re.compile(r"^[A-Za-z0-9_.-]+$")
_ARCHITECTURES = {
    "i386": ("386", ""), "i686": ("386", ""), "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "amd64": ("amd64", ""), "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "arm": ("arm", "v7"),
}  # fmt: skip
_KNOWN_OS = frozenset(
    ["aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows", "zos"]
)
_KNOWN_ARCHITECTURES = frozenset(
    ["386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm"]
)


class InvalidPlatform(LaminaError):
    code = "oci/invalid-platform"
    default_exit = 2


@dataclass(frozen=True, slots=True)
class Platform:
    """Normalised by `parse`; the constructor takes what it is given (a manifest's own words)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(word for word in (self.os, self.architecture, self.variant) if word)

    @classmethod
    def parse(cls, text: str, default: Platform | None = None) -> Platform:
        """`linux/arm64/v8`, `arm64`, `linux`. `default` (linux/amd64 where not given) fills what a single word leaves open. Raises InvalidPlatform."""
        default = default or Platform("linux", "amd64")
        head, _, tail = text.partition("(")
        version = ""
        if tail:
            version, closed, rest = tail.partition(")")
            if not closed:
                raise InvalidPlatform(f"{text!r} is not a platform", hint="for example linux/amd64 or linux/arm64/v8")
            head += rest
        words = head.split("/")
        if not 1 <= len(words) <= 3 or not all(_WORD.match(word) for word in words):
            raise InvalidPlatform(f"{text!r} is not a platform", hint="for example linux/amd64 or linux/arm64/v8")
        first = _normal_os(words[0])
        if len(words) == 1:
            if first in _KNOWN_OS:
                return cls(first, default.architecture, default.variant, version)
            architecture, variant = normal_architecture(words[0], "")
            if architecture not in _KNOWN_ARCHITECTURES:
                raise InvalidPlatform(f"platform {text!r}: neither an operating system nor an architecture", hint="for example linux/amd64")
            return cls(default.os, architecture, variant, version)
        architecture, variant = normal_architecture(words[1], words[2] if len(words) == 3 else "")
        if len(words) == 3 and architecture == "arm64" and not variant and words[2].lower() not in ("v8", "8"):
            variant = words[2].lower()
        return cls(first, architecture, variant, version)

    def normalised(self) -> Platform:
        architecture, variant = normal_architecture(self.architecture, self.variant)
        return Platform(_normal_os(self.os), architecture, variant, self.os_version)

    def runs(self, other: Platform) -> bool:
        """Whether an image for `other` can stand where this platform is asked for: same os and architecture, a variant that this one includes."""
        mine, theirs = self.normalised(), other.normalised()
        if (mine.os, mine.architecture) != (theirs.os, theirs.architecture):
            return False
        return mine.variant == theirs.variant or theirs.variant in _included(mine)


def normal_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    name, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    if architecture == "arm" and variant in ("", "7"):
        return "arm", "v7"
    if name == "arm64" and variant in ("8", "v8"):
        return "arm64", ""
    if name == "arm" and variant in ("5", "6", "8"):
        return "arm", f"v{variant}"
    if name == "amd64" and variant == "v1":
        return "amd64", ""
    return name, variant or implied


def best(wanted: Platform, offered: Sequence[Platform | None]) -> int | None:
    """Index of the offer that fits best: the same variant first, then lower ones; None when none fits."""
    order = [wanted.normalised().variant, *_included(wanted.normalised())]
    found: tuple[int, int] | None = None
    for index, offer in enumerate(offered):
        if offer is None or not wanted.runs(offer):
            continue
        rank = order.index(offer.normalised().variant)
        if found is None or rank < found[0]:
            found = (rank, index)
    return None if found is None else found[1]


def _included(platform: Platform) -> list[str]:
    if platform.architecture == "arm":
        number = int(platform.variant[1:]) if platform.variant[1:].isdigit() else 7
        return [f"v{n}" for n in range(number - 1, 4, -1)]
    if platform.architecture == "amd64" and platform.variant[1:].isdigit():
        return [*(f"v{n}" for n in range(int(platform.variant[1:]) - 1, 1, -1)), ""]
    return []


def _normal_os(word: str) -> str:
    return {"macos": "darwin"}.get(word.lower(), word.lower())
