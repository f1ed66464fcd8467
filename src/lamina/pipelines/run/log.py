"""What a step prints: masked, cut into whole lines, kept in its log file and shown with its name in front."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from lamina.pipelines.masking import Masker
from lamina.pipelines.show import visible

Show = Callable[[str], None]
"""Prints one line, without its end; called under one lock."""
_LONGEST = 1 << 16  # bytes of a line; a longer one is cut into several
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """One for a run: whole lines only, one at a time. Others may show steps in another way."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Of the run as a whole."""
        with self._lock:
            self._show(text)

    def output(self, number: int, prefix: str, text: str) -> None:
        """A line of a step; `prefix` names it."""
        self.line(prefix + text)

    def printed(self, number: int, prefix: str, line: bytes) -> None:
        """A line of a step as its log file has it."""
        self.output(number, prefix, shown(line))

    def begun(self, number: int, name: str, *, parallel: bool) -> None:
        """A step begins."""

    def ended(self, number: int, told: str, *, bad: bool) -> None:
        """It has ended; `told` in one line."""


class StepLog:
    """Thread-safe. The file gets what the step printed, masked; the terminal gets no control sequence but colours."""

    def __init__(self, terminal: Terminal, prefix: str, file: Path, secrets: Iterable[tuple[str, str]], number: int = 0) -> None:
        self._terminal = terminal
        self._number = number
        self._prefix = prefix
        self._file = open(file, "ab", buffering=0)  # noqa: SIM115 - open as long as the step
        self._secrets = tuple(secrets)
        self._maskers = {"stdout": Masker(self._secrets), "stderr": Masker(self._secrets)}
        self._rests = {"stdout": b"", "stderr": b""}
        self._lock = threading.Lock()
        self._lost = 0  # lines that the file could not take
        self._why = ""

    def output(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        with self._lock:
            self._take(stream, self._maskers[stream].feed(data))

    def say(self, text: str) -> None:
        """A line of ours."""
        text = self._maskers["stdout"].mask(text)
        with self._lock:
            self._put(text.encode(errors="surrogateescape"))

    def mask(self, text: str) -> str:
        return self._maskers["stdout"].mask(text)

    def flush(self) -> None:
        """The last line, when it has no end."""
        with self._lock:
            for stream, masker in self._maskers.items():
                self._take(stream, masker.close())
                if self._rests[stream]:
                    self._put(self._rests[stream])
                    self._rests[stream] = b""

    def close(self) -> None:
        self.flush()
        if self._lost:
            told = f"{self._lost} lines are missing in the log file: {self._why}"
            self._terminal.output(self._number, self._prefix, told)
            with contextlib.suppress(OSError):
                self._file.write(told.encode() + b"\n")
        self._file.close()

    def _take(self, stream: str, data: bytes) -> None:
        *lines, rest = (self._rests[stream] + data).split(b"\n")
        while len(rest) > _LONGEST:
            lines.append(rest[:_LONGEST])
            rest = rest[_LONGEST:]
        self._rests[stream] = rest
        for line in lines:
            self._put(line)

    def _put(self, line: bytes) -> None:
        line = line.removeprefix(b"\x1d")
        if line == b"\x1e":
            line = b"After script"
        if not self._file.closed:
            try:
                self._file.write(line + b"\n")
            except OSError as error:  # a full disk ends no step, nor the reading of what it prints
                self._lost += 1
                self._why = error.strerror or "it cannot be written"
        self._terminal.printed(self._number, self._prefix, line)


def shown(line: bytes) -> str:
    """A line for a terminal: colours stay (and end with the line), of what a carriage return overwrites only the last is kept."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="backslashreplace")
    parts = []
    begun = 0
    for match in _COLOUR.finditer(text):
        parts += [_plain(text[begun : match.start()]), match[0]]
        begun = match.end()
    parts.append(_plain(text[begun:]))
    return "".join(parts) + ("\x1b[0m" if begun else "")


def _plain(text: str) -> str:
    return "\t".join(visible(part) for part in text.split("\t"))
