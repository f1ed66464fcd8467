"""A pipeline on a terminal. Steps that run alone scroll; of parallel ones the time and the last line stand below until they end."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from lamina.cli.progress import Paint
from lamina.cli.words import seconds, shorten
from lamina.pipelines.run.log import Terminal

_FRAME = 0.1  # seconds between redraws
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ROWS = 12  # steps that are shown at once
_TAIL = 40  # lines that a failed step shows


class PlainTerminal(Terminal):
    """Whole lines, never rewritten: for the logs of a CI service."""

    def close(self) -> None:
        pass


class _Running:
    def __init__(self, name: str) -> None:
        self.name = name
        self.since = time.monotonic()
        self.lines: list[str] = []


class LiveTerminal(PlainTerminal):
    """Redraws with plain ANSI; a thread ticks only while something runs. close() shows the cursor again."""

    def __init__(self, stream: TextIO, *, colour: bool, width: int) -> None:
        super().__init__(lambda line: None)
        self._stream = stream
        self._paint = Paint(colour)
        self._width = max(20, width)
        self._running: dict[int, _Running] = {}
        self._drawn = 0
        self._frame = 0
        self._closed = threading.Event()
        self._ticker: threading.Thread | None = None

    def line(self, text: str) -> None:
        with self._lock:
            self._redraw([text])

    def output(self, number: int, prefix: str, text: str) -> None:
        with self._lock:
            step = self._running.get(number)
            if step is None:
                self._redraw([prefix + text])
                return
            step.lines.append(text)
            del step.lines[:-_TAIL]  # the ticker draws: output may come in thousands of lines

    def begun(self, number: int, name: str, *, parallel: bool) -> None:
        if not parallel:
            return
        with self._lock:
            self._running[number] = _Running(name)
            if self._ticker is None:
                self._stream.write("\x1b[?25l")
                self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
                self._ticker.start()
            self._redraw([])

    def ended(self, number: int, told: str, *, bad: bool) -> None:
        with self._lock:
            step = self._running.pop(number, None)
            if step is None:
                return
            tail = [self._paint("dim", "  │ ") + line for line in step.lines if line.strip()] if bad else []
            self._redraw([*tail, self._paint("red" if bad else "green", told)])

    def close(self) -> None:
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join()
            with self._lock:
                self._running.clear()
                self._redraw([])
                self._stream.write("\x1b[?25h")
                self._stream.flush()

    def _tick(self) -> None:
        while not self._closed.wait(_FRAME):
            with self._lock:
                self._frame += 1
                if self._running or self._drawn:
                    self._redraw([])

    def _redraw(self, above: list[str]) -> None:
        """Print `above` for good, then the running steps; what was drawn before is wiped. The lock is held."""
        parts = [f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""]
        parts += [line + "\n" for line in above]
        now = time.monotonic()
        spin = _SPINNER[self._frame % len(_SPINNER)]
        shown = list(self._running.values())[:_ROWS]
        for step in shown:
            last = next((line for line in reversed(step.lines) if line.strip()), "")
            parts.append(self._paint("cyan", shorten(f"{spin} {step.name}  {seconds(now - step.since)}", self._width - 1)) + "\n")
            parts.append(self._paint("dim", shorten(f"  │ {_uncoloured(last)}", self._width - 1)) + "\n")
        self._drawn = 2 * len(shown)
        self._stream.write("".join(parts))
        self._stream.flush()


def _uncoloured(line: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def terminal_for(stream: TextIO, *, live: bool, colour: bool, width: int) -> PlainTerminal:
    """What a run prints on."""
    if live:
        return LiveTerminal(stream, colour=colour, width=width)
    return PlainTerminal(lambda line: print(line, file=stream, flush=True))
