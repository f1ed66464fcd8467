"""Runs recorded results of other tools against lamina: `python -m lamina.testing.conformance KIND DIR`.

A kind is a module with `run(directory) -> Iterator[Outcome]`. The data is a folder in the layout of $LAMINA_CONFORMANCE.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case; `differences` in words, empty when it is equal."""

    name: str
    differences: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.differences


KINDS: dict[str, str] = {
    "dockerfiles": "lamina.testing.conformance.dockerfiles",
    "lex": "lamina.testing.conformance.lex",
    "dockerignore": "lamina.testing.conformance.dockerignore",
    "graph": "lamina.testing.conformance.graph",
    "pipelines": "lamina.testing.conformance.pipelines",
    "cache": "lamina.testing.conformance.cache",
}


class NoData(Exception):
    """The folder does not hold data of this kind."""


def run(kind: str, directory: Path) -> Iterator[Outcome]:
    """The outcome of every case below `directory`. Raises NoData, and KeyError for an unknown kind."""
    module = importlib.import_module(KINDS[kind])
    runner = cast("Callable[[Path], Iterator[Outcome]]", module.run)
    return runner(directory)


def locate(directory: Path, *candidates: str) -> Path:
    """The first of the relative paths that exists below `directory`. Raises NoData."""
    for candidate in candidates:
        if (directory / candidate).exists():
            return directory / candidate
    raise NoData(f"{directory} has none of {', '.join(candidates)}")


def compare(label: str, got: object, want: object) -> tuple[str, ...]:
    """One difference in words, or none."""
    return () if got == want else (f"{label}: got {_short(got)}, recorded is {_short(want)}",)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:297] + "…"
