"""What a scenario changed, in the words that a reason must use; and which steps of a build do not say so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.cache.reason import HIT_CODES, MISS_CODES

_CODES = {"hit": HIT_CODES, "ran": MISS_CODES, "skipped": ("not-needed", "not-reached"), "none": ("base", "metadata")}
_INSTRUCTION = re.compile(
    r"(?i)\s*(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL|USER|VOLUME|WORKDIR)\s+(.*)"
)


@dataclass(frozen=True, slots=True)
class Told:
    """A row of a build report."""

    line: int
    text: str
    verdict: str
    code: str
    message: str
    details: tuple[str, ...]
    key: str
    trigger: bool


@dataclass(frozen=True, slots=True)
class Change:
    """`words`: each of them names something that was changed; a reason has to contain one."""

    words: frozenset[str]

    def is_named_by(self, message: str) -> bool:
        return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message) for word in self.words)


class Watcher:
    """Looks at a scenario's Dockerfile and ignore files before and after its mutations. `world` is oracle.py's."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._before = self._texts()

    def change(self, mutations: Sequence[Mapping[str, Any]]) -> Change:
        """What was done since. `mutations` as in scenarios.json."""
        words = {self._world.fill(word) for mutation in mutations for word in _of_mutation(mutation)}
        before, after = self._before, self._texts()
        if before["Dockerfile"] != after["Dockerfile"]:
            words |= {*_of_dockerfiles(before["Dockerfile"], after["Dockerfile"]), "Dockerfile"}  # a COPY . takes it along
        for name in before.keys() | after.keys() - {"Dockerfile"}:  # what an ignore file leaves out or lets through now
            words |= {*before.get(name, "").split()} ^ {*after.get(name, "").split()}
        return Change(frozenset(words))

    def _texts(self) -> dict[str, str]:
        ignores = {path.name: path.read_text(encoding="utf-8") for path in Path(self._world.ctx).glob("*.dockerignore")}
        return {**ignores, "Dockerfile": self._world.fill("\n".join(self._world.dockerfile))}


def _of_mutation(mutation: Mapping[str, Any]) -> Iterator[str]:
    match mutation["op"]:
        case "write" | "remove" | "touch" | "chmod" | "chown" | "xattr":
            yield from _of_path(mutation["path"])
        case "rename":
            yield from _of_path(mutation["path"])
            yield from _of_path(mutation["to"])
        case "arg":
            yield mutation["name"]
        case "flag":
            yield "--" + mutation["name"].replace("_", "-")
        case "image":
            yield f"@{mutation['name']}@"
            spec = mutation["spec"]
            yield from spec.get("env", ())
            yield from (name.upper() for name in ("user", "workdir") if name in spec)
        case "http":
            yield f"@http@{mutation['path']}"


def _of_path(path: str) -> Iterator[str]:
    """A named context's files are called by their place in it."""
    yield path.split("/", 2)[2] if path.startswith("../named-") else path


def _of_dockerfiles(before: str, after: str) -> Iterator[str]:
    old, new = before.split("\n"), after.split("\n")
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        gone, came = old[a:b], new[c:d]
        if len(gone) == len(came):
            for one, other in zip(gone, came):
                yield from _of_line(one, other)
            continue
        for line in (*gone, *came):
            yield from _of_line("", line)
            if line in old and line in new:  # it moved: past these
                for passed in old[min(old.index(line), new.index(line)) : max(old.index(line), new.index(line)) + 1]:
                    yield from _of_line("", passed)


def _of_line(one: str, other: str) -> Iterator[str]:
    """`one` is empty for a line that was put in or taken out."""
    if one.split() == other.split():
        yield "white space"
        return
    settings = [_setting(line) for line in (one, other) if line.strip()]
    for words in settings:
        yield from words
    if all(settings):
        return
    if not one.strip():
        yield _beginning(other)
        return
    if not _INSTRUCTION.match(other):
        yield "here-document"
    pieces, others = re.split(r"[\s,=]+", one), re.split(r"[\s,=]+", other)
    for tag, a, b, c, d in difflib.SequenceMatcher(None, pieces, others, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from (word for word in (*pieces[a:b], *others[c:d]) if word)


def _setting(line: str) -> list[str]:
    """What an instruction that makes no layer is called by: the variables that it sets, or its own name."""
    found = _INSTRUCTION.match(line)
    name = found[1].upper() if found else ""
    if found and name in ("ENV", "ARG"):
        return [re.split(r"[=\s]", word)[0] for word in found[2].split()]
    return [name] if name in ("WORKDIR", "USER", "SHELL") else []


def _beginning(line: str, limit: int = 30) -> str:
    """Reasons shorten an instruction; so much of it is always there."""
    text = " ".join(line.split())
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0]


def unexplained(rows: Sequence[Told], change: Change | None) -> Iterator[str]:
    """In words: steps without a reason or with a code that is not in the list; steps that ran after a change and do not say what changed.

    A step says so itself, or it follows a step of this build that ran, and names that.
    """
    ran: list[Told] = []
    for row in rows:
        place = f"line {row.line}: {row.text}: {row.verdict}"
        if row.code not in _CODES.get(row.verdict, ()):
            yield f"{place} has the code {row.code!r}"
        if not row.message.strip():
            yield f"{place} has no reason"
        if row.verdict != "ran" or change is None:
            continue
        if not change.is_named_by(row.message) and not _follows(row, ran):
            yield f"{place} does not name what changed ({', '.join(sorted(change.words))}): {row.code}: {row.message} {row.details}"
        ran.append(row)


def _follows(row: Told, ran: Sequence[Told]) -> bool:
    return row.code == "parent-changed" and any(f"line {other.line}: " in row.message for other in ran)
