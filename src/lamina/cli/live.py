"""The live view on a terminal: finished steps scroll up, running ones stay below with their time and last line of output."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TextIO

from lamina.cli.progress import Paint, _clean, step_line
from lamina.cli.words import seconds, shorten
from lamina.engine.request import Notice, ProgressEvent, StepEnded, StepOutput, StepStarted

_FRAME = 0.1  # seconds between redraws
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass
class _Running:
    name: str
    since: float
    last: str = ""
    tail: list[bytes] = field(default_factory=list)  # whole output lines, kept to be shown when the step fails


class Live:
    """Redraws with plain ANSI; a thread ticks only while something runs. The cursor is shown again by close()."""

    def __init__(self, stream: TextIO, *, colour: bool, width: int) -> None:
        self._stream = stream
        self._paint = Paint(colour)
        self._width = max(20, width)
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}
        self._drawn = 0
        self._frame = 0
        self._closed = threading.Event()
        self._ticker: threading.Thread | None = None

    def report(self, event: ProgressEvent) -> None:
        with self._lock:
            match event:
                case StepStarted():
                    self._running[event.id] = _Running(event.name, time.monotonic())
                    self._start_ticking()
                case StepOutput():
                    step = self._running.get(event.id)
                    if step is not None:
                        data = (step.tail.pop() if step.tail else b"") + event.data
                        step.tail.extend(data.split(b"\n"))
                        del step.tail[:-200]
                        shown = [line for line in step.tail[-3:] if line.strip()]
                        step.last = _clean(shown[-1]) if shown else ""
                    return  # the ticker draws; output may come in thousands of pieces
                case StepEnded():
                    step = self._running.pop(event.id, None)
                    lines = step_line(event, self._paint, self._width)
                    if event.verdict == "failed" and step is not None:
                        output = [
                            self._paint("dim", "       │ ") + shorten(_clean(line), self._width - 9) for line in step.tail if line.strip()
                        ]
                        lines = "\n".join([*output[-40:], lines])
                    self._redraw(lines)
                case Notice():
                    self._redraw((self._paint("yellow", "warning: ") if event.level == "warning" else "") + event.text)

    def close(self) -> None:
        self._closed.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._lock:
            self._running.clear()
            self._redraw("")
            if self._ticker is not None:
                self._stream.write("\x1b[?25h")
                self._stream.flush()

    def _start_ticking(self) -> None:
        if self._ticker is None:
            self._stream.write("\x1b[?25l")
            self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while not self._closed.wait(_FRAME):
            with self._lock:
                self._frame += 1
                if self._running or self._drawn:
                    self._redraw("")

    def _redraw(self, above: str) -> None:
        """Print `above` for good, then the running steps; what was drawn before is wiped. The lock is held."""
        parts = [f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else "\r"]
        if above:
            parts.append(above + "\n")
        now = time.monotonic()
        spin = _SPINNER[self._frame % len(_SPINNER)]
        for step in list(self._running.values())[:12]:
            head = shorten(f"{spin} {step.name}  {seconds(now - step.since)}", self._width - 1)
            parts.append(self._paint("cyan", head) + "\n")
            parts.append(self._paint("dim", shorten("       │ " + step.last, self._width - 1)) + "\n")
        self._drawn = 2 * min(12, len(self._running))
        self._stream.write("".join(parts))
        self._stream.flush()
