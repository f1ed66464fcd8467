"""Flags of instructions: which there are, and their values."""

from __future__ import annotations

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.dockerfile.splitting import SplitError, Word

_HEALTH = {"interval": "string", "timeout": "string", "start-period": "string", "start-interval": "string", "retries": "string"}
_SHARED = {"chown": "string", "chmod": "string", "link": "bool", "exclude": "strings"}
FLAGS: dict[str, dict[str, str]] = {
    "FROM": {"platform": "string"},
    "RUN": {"mount": "strings", "network": "string", "security": "string", "device": "strings"},
    "COPY": {**_SHARED, "from": "string", "parents": "bool"},
    "ADD": {**_SHARED, "checksum": "string", "keep-git-dir": "bool", "unpack": "bool"},
    "HEALTHCHECK": _HEALTH,
}
"""Instruction -> flag -> kind: "bool", "string", or "strings" for one that may be given several times."""


class Flags(msgspec.Struct):
    """The flags of one instruction; `values` in the order given, with the word that each came from."""

    values: dict[str, list[tuple[str, Word]]] = {}

    def string(self, name: str) -> str | None:
        given = self.values.get(name)
        return given[0][0] if given else None

    def boolean(self, name: str) -> bool | None:
        given = self.values.get(name)
        return given[0][0] == "true" if given else None

    def strings(self, name: str) -> tuple[str, ...]:
        return tuple(value for value, _ in self.values.get(name, ()))

    def word(self, name: str) -> Word:
        return self.values[name][0][1]


def parse_flags(keyword: str, words: tuple[Word, ...]) -> Flags:
    """Check and sort the flags of an instruction. Raises SplitError at the flag that is wrong."""
    allowed = FLAGS.get(keyword, {})
    flags = Flags()
    for word in words:
        name, equals, value = word.text[2:].partition("=")
        kind = allowed.get(name)
        if kind is None:
            raise _unknown(keyword, name, word)
        if name in flags.values and kind != "strings":
            raise SplitError("dockerfile/duplicate-flag", f"--{name} is given twice", word.start, word.end)
        if kind == "bool":
            if equals and not value:
                raise _missing(name, word)
            value = value.lower() or "true"
            if value not in ("true", "false"):
                raise SplitError("dockerfile/bad-flag", f"--{name} is either true or false, not {value}", word.start, word.end)
        elif not equals:
            raise _missing(name, word)
        flags.values.setdefault(name, []).append((value, word))
    return flags


def _missing(name: str, word: Word) -> SplitError:
    return SplitError("dockerfile/flag-without-value", f"--{name} lacks a value", word.start, word.end, f"--{name}=VALUE")


def _unknown(keyword: str, name: str, word: Word) -> SplitError:
    allowed = FLAGS.get(keyword, {})
    near = nearest(name, list(allowed))
    if near:
        hint = f"did you mean --{near}?"
    elif allowed:
        hint = f"{keyword} takes " + ", ".join(f"--{flag}" for flag in sorted(allowed))
    else:
        hint = f"{keyword} takes no flags"
    other = next((other for other in ("COPY", "ADD", "RUN") if name in FLAGS[other]), None)
    if not near and other:
        hint = f"--{name} belongs to {other}"
    return SplitError("dockerfile/unknown-flag", f"{keyword} has no flag --{name}", word.start, word.start + len("--") + len(name), hint)
