"""Platforms: os/architecture/variant, normalised as containerd does (platforms/database.go)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from lamina.diagnostics.errors import LaminaError

_FORM = re.compile(
    r"(?P<os>[A-Za-z0-9_.-]+)(?:\((?P<version>[A-Za-z0-9_.-]*)\))?(?:/(?P<architecture>[A-Za-z0-9_.-]+)(?:/(?P<variant>[A-Za-z0-9_.-]+))?)?"
)
_ARCHITECTURES = {
    "i386": ("386", ""), "i686": ("386", ""), "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "amd64": ("amd64", ""), "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "arm": ("arm", "v7"),
}  # fmt: skip
_KNOWN_OS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
        "zos",
    ]
)
_KNOWN_ARCHITECTURES = frozenset(
    [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "ppc64",
        "ppc64le",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    ]
)


class InvalidPlatform(LaminaError):
    code = "oci/invalid-platform"
    default_exit = 2


class Platform(msgspec.Struct, frozen=True):
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
        found = _FORM.fullmatch(text)
        if not found:
            raise InvalidPlatform(f"{text!r} is not a platform", hint="for example linux/amd64 or linux/arm64/v8")
        word, version, architecture, variant = (found[name] or "" for name in ("os", "version", "architecture", "variant"))
        os = _normal_os(word)
        if not architecture and os in _KNOWN_OS:
            return cls(os, default.architecture, default.variant, version)
        if not architecture:
            os, architecture = default.os, word
            if normal_architecture(word, "")[0] not in _KNOWN_ARCHITECTURES:
                raise InvalidPlatform(f"platform {text!r}: neither an operating system nor an architecture", hint="for example linux/amd64")
        return cls(os, *normal_architecture(architecture, variant), version)

    def normalised(self) -> Platform:
        architecture, variant = normal_architecture(self.architecture, self.variant)
        return Platform(_normal_os(self.os), architecture, variant, self.os_version)

    def runs(self, other: Platform) -> bool:
        """Whether an image for `other` can stand where this platform is asked for: as `best` ranks it."""
        return best(self, [other]) is not None


def normal_architecture(architecture: str, variant: str) -> tuple[str, str]:
    """(architecture, variant) in containerd's words; a variant that says nothing new is ""."""
    architecture, variant = architecture.lower(), variant.lower()
    name, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    if architecture in ("i386", "i686", "armhf", "armel"):
        return name, implied
    if name == "arm":
        return "arm", f"v{variant}" if variant in ("5", "6", "7", "8") else variant or implied
    if (name, variant) in (("arm64", "8"), ("arm64", "v8"), ("amd64", "v1")):
        return name, ""
    return name, variant


def best(wanted: Platform, offered: Sequence[Platform | None]) -> int | None:
    """Index of the offer that fits best: the same variant first, then lower ones, then what the same processor runs
    besides (386 on amd64, arm on arm64), as containerd's platforms.Only; None when none fits."""
    normal = wanted.normalised()
    order = _runnable(normal)
    found: tuple[int, int] | None = None
    for index, offer in enumerate(offered):
        if offer is None or offer.normalised().os != normal.os:
            continue
        theirs = offer.normalised()
        if (theirs.architecture, theirs.variant) not in order:
            continue
        rank = order.index((theirs.architecture, theirs.variant))
        if found is None or rank < found[0]:
            found = (rank, index)
    return None if found is None else found[1]


def _runnable(platform: Platform) -> list[tuple[str, str]]:
    """(architecture, variant) that a processor runs, best first (containerd, platforms/compare.go platformVector)."""
    name, variant = platform.architecture, platform.variant
    digits = variant[1:] if variant[:1] == "v" and variant[1:].isascii() and variant[1:].isdecimal() else ""
    order = [(name, variant)]
    if name == "arm":
        order += [(name, f"v{n}") for n in range(min(int(digits or "7"), 99) - 1, 4, -1)]
    elif name == "amd64":
        order += [(name, f"v{n}" if n > 1 else "") for n in range(min(int(digits or "1"), 99) - 1, 0, -1)]
        order.append(("386", ""))
    elif name == "arm64":
        order += [(name, "")] * bool(variant)
        order += [("arm", f"v{n}") for n in range(8, 4, -1)]
    return order


def _normal_os(word: str) -> str:
    return {"macos": "darwin"}.get(word.lower(), word.lower())
