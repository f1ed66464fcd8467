"""What a build prints while it goes on: plain lines, JSON lines or nothing. The live view of a terminal is cli/live.py."""

from __future__ import annotations

import threading
from typing import Literal, Protocol, TextIO

from lamina.cli import words
from lamina.engine.request import BuildResult, Notice, ProgressEvent, StepEnded, StepOutput, StepStarted
from lamina.oci import typed

Mode = Literal["auto", "plain", "tty", "json", "quiet"]


class Progress(Protocol):
    def report(self, event: ProgressEvent) -> None: ...
    def close(self) -> None: ...


def choose(mode: Mode, stream: TextIO, *, colour: bool, width: int) -> Progress:
    """The renderer for `--progress`; auto is tty on a terminal and plain elsewhere."""
    if mode == "quiet":
        return Quiet()
    if mode == "json":
        return JsonLines(stream)
    if mode == "tty" or (mode == "auto" and stream.isatty()):
        from lamina.cli.live import Live

        return Live(stream, colour=colour, width=width)
    return Plain(stream, colour=colour)


class Paint:
    """ANSI colours, or nothing (NO_COLOR, not a terminal)."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, style: str, text: str) -> str:
        codes = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1", "cyan": "36"}
        return f"\x1b[{codes[style]}m{text}\x1b[0m" if self._on else text


VERDICTS = {"hit": ("CACHED", "green"), "ran": ("RAN", "yellow"), "failed": ("FAILED", "red")}


def step_line(event: StepEnded, paint: Paint, width: int = 0) -> str:
    """One finished step: verdict, name, seconds, reason; of a failed one what went wrong, which is asked for before the cache's reason."""
    word, style = VERDICTS.get(event.verdict, (event.verdict.upper(), "dim"))
    head = words.step_head(
        word, event.name, words.seconds(event.seconds) if event.verdict in ("ran", "failed") else words.saved(event.saved)
    )
    reason = event.reason.message
    if event.verdict == "failed" and event.error:
        reason = event.error.split("\n", 1)[0]
    if width:
        head = words.shorten(head, width)
        reason = words.shorten(reason, max(0, width - len(words.REASON)))
    line = paint(style, head[:6]) + head[6:]
    return f"{line}\n{paint('dim', words.REASON + reason)}" if reason else line


def summary(result: BuildResult) -> str:
    """`9 cached (saved 41 s), 2 ran, 3.2 s in all`."""
    verdicts = [step.verdict for step in result.steps]
    gained = sum(step.saved for step in result.steps if step.verdict == "hit")
    return words.summary(verdicts.count("hit"), gained, verdicts.count("ran"), verdicts.count("skipped"), result.seconds)


class Quiet:
    def report(self, event: ProgressEvent) -> None:
        pass

    def close(self) -> None:
        pass


class Plain:
    """Whole lines only, never rewritten: for CI logs. A step's output carries its number."""

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._stream = stream
        self._paint = Paint(colour)
        self._lock = threading.Lock()
        self._partial: dict[int, bytes] = {}

    def report(self, event: ProgressEvent) -> None:
        with self._lock:
            match event:
                case StepStarted():
                    self._print(f"{self._paint('cyan', 'START ')} {event.name}  (#{event.id})")
                case StepOutput():
                    data = self._partial.pop(event.id, b"") + event.data
                    *lines, rest = data.split(b"\n")
                    for line in lines:
                        self._print(f"#{event.id} | {_clean(line)}")
                    if rest:
                        self._partial[event.id] = rest
                case StepEnded():
                    self._print(step_line(event, self._paint))
                case Notice():
                    self._print(self._paint("yellow", "warning: ") + event.text if event.level == "warning" else event.text)

    def close(self) -> None:
        with self._lock:
            for number, rest in self._partial.items():
                self._print(f"#{number} | {_clean(rest)}")
            self._partial.clear()

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _clean(line: bytes) -> str:
    """A workload's line without control characters that would play with the terminal; what follows the last carriage return counts."""
    text = line.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace")
    return "".join(c for c in text if c == "\t" or c.isprintable() or c == "\x1b") if "\x1b" not in text else _without_escapes(text)


def _without_escapes(text: str) -> str:
    import re

    text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)", "", text)
    return "".join(c for c in text if c == "\t" or c.isprintable())


class JsonLines:
    """One JSON object a line; `event` says which kind."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def report(self, event: ProgressEvent) -> None:
        document: dict[str, object]
        match event:
            case StepStarted():
                document = {"event": "started", "id": event.id, "name": event.name}
            case StepOutput():
                document = {"event": "output", "id": event.id, "stream": event.stream, "data": event.data.decode("utf-8", "replace")}
            case StepEnded():
                document = {
                    "event": "ended", "id": event.id, "name": event.name, "verdict": event.verdict, "seconds": round(event.seconds, 4),
                    "saved": round(event.saved, 4), "reason": {"code": event.reason.code, "message": event.reason.message}, "error": event.error,
                }  # fmt: skip
            case Notice():
                document = {"event": "notice", "level": event.level, "code": event.code, "text": event.text}
        with self._lock:
            self._stream.write(typed.encode_json(document).decode() + "\n")
            self._stream.flush()

    def close(self) -> None:
        pass
