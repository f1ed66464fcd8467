"""Options of docker's commands, as its own CLI reads them: `-aq`, `-t NAME`, `-tNAME`, `--tag NAME`, `--tag=NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from lamina.diagnostics.errors import LaminaError


class Usage(LaminaError):
    """What the command does not take; docker's exit code."""

    code = "pipeline/docker-usage"
    default_exit = 125


class Given(msgspec.Struct, frozen=True):
    """Values by the option's first name, in order; a switch has "true" or "false"."""

    values: Mapping[str, list[str]]
    rest: list[str]

    def last(self, name: str, default: str = "") -> str:
        return self.values[name][-1] if name in self.values else default

    def every(self, name: str) -> list[str]:
        return list(self.values.get(name, ()))

    def on(self, name: str) -> bool:
        return self.last(name) == "true"


def parse(command: str, words: Sequence[str], valued: str, switches: str = "", *, mixed: bool = True) -> Given:
    """`valued` and `switches`: the names of each option joined by `|`, options apart by blanks. `mixed`: options may stand after the first plain word."""
    names: dict[str, tuple[str, bool]] = {}
    for text, takes in ((valued, True), (switches, False)):
        for option in text.split():
            first, *others = option.split("|")
            for one in (first, *others):
                names[one] = (first, takes)
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            rest += queue
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not mixed:
                rest += queue
                break
            continue
        for name, value in _split(command, word, names):
            first, takes = names[name]
            if takes and value is None:
                if not queue:
                    raise Usage(f"docker {command}: {name} needs a value")
                value = queue.pop(0)
            values.setdefault(first, []).append(value if value is not None else "true")
    return Given(values, rest)


def _split(command: str, word: str, names: Mapping[str, tuple[str, bool]]) -> list[tuple[str, str | None]]:
    """The options that one word is."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        if name not in names:
            raise Usage(f"docker {command}: {name} is not known to lamina's docker", hint=HINT)
        return [(name, value if equals else None)]
    found: list[tuple[str, str | None]] = []
    letters = word[1:]
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        if name not in names:
            raise Usage(f"docker {command}: {name} is not known to lamina's docker", hint=HINT)
        if names[name][1] and letters:
            found.append((name, letters.removeprefix("=")))
            break
        found.append((name, None))
    return found


HINT = "an image with docker's own CLI has everything"
