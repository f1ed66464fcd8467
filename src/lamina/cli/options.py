"""Options as data. `commands/declaring.py` makes click's of them, for help, completion and messages; `parse` reads the plain lines itself,
because importing click costs a build of ten steps more than a RUN does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec


class Option(msgspec.Struct, frozen=True):
    """`kind`: "path" need not exist, "file" must; "number" is from 1 up. `many`: may be given several times. `env`: the variable that stands for it.
    `alone`: it may stand without a value (declaring.WithCacheMounts)."""

    names: tuple[str, ...]
    dest: str
    help: str
    kind: Literal["flag", "value", "path", "file", "number"] = "value"
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    default: str | None = None
    many: bool = False
    env: str | None = None
    alone: bool = False


def parse(options: Sequence[Option], words: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What click would make of the words of one command that takes options and at most one argument, `path` (default "."). None where click has
    to look itself: an option that is not known or not written out, a value that is missing or looks like an option, a choice that is none."""
    known = {name: option for option in options for name in option.names}
    found: dict[str, Any] = {option.dest: False if option.kind == "flag" else () if option.many else option.default for option in options}
    paths: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "-" or not word.startswith("-"):
            paths.append(word)
            continue
        name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
        option = known.get(name)
        if option is None:
            return None
        if option.kind == "flag":
            if equals:
                return None
            found[option.dest] = True
            continue
        if not equals:
            text = next(rest, "--")
            if option.alone or (text.startswith("-") and text != "-"):
                return None
        value = _value(option, text)
        if value is None:
            return None
        found[option.dest] = (*found[option.dest], value) if option.many else value
    if len(paths) > 1 or any(option.env and environment.get(option.env) for option in options):
        return None
    return {**found, "path": paths[0] if paths else "."}


def _value(option: Option, text: str) -> str | Path | int | None:
    """None for what click refuses, or looks at on the disk."""
    match option.kind:
        case "path":
            return Path(text)
        case "number":
            return int(text) if text.isascii() and text.isdigit() and int(text) >= 1 else None
        case "value" if not option.choices or text in option.choices:
            return text
    return None
