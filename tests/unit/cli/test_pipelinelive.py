"""The live view of a pipeline: what stays on the screen at the end, read as a terminal would."""

from __future__ import annotations

import io
import re

from lamina.cli.pipelinelive import LiveTerminal, terminal_for


def screen(written: str) -> list[str]:
    """The lines that a terminal would show after all."""
    lines = [""]
    for part in re.split(r"(\x1b\[\d*[AJ]|\x1b\[\?25[lh]|\x1b\[\d*m|\r|\n)", written):
        if match := re.fullmatch(r"\x1b\[(\d+)A", part):
            del lines[len(lines) - int(match[1]) :]
            lines[-1:] = [""]
        elif part == "\n":
            lines.append("")
        elif part and not part.startswith(("\x1b", "\r")):
            lines[-1] += part
    return [line for line in lines if line]


def test_parallel_steps_are_folded_and_a_failed_one_shows_its_end() -> None:
    stream = io.StringIO()
    terminal = LiveTerminal(stream, colour=False, width=60)
    terminal.line("run 1")
    terminal.begun(1, "1. alone", parallel=False)
    terminal.output(1, "[1. alone] ", "scrolls")
    terminal.ended(1, "1. alone: passed", bad=False)
    for number in (2, 3):
        terminal.begun(number, f"{number}. beside", parallel=True)
    for count in range(100):
        terminal.output(2, "[2] ", f"good {count}")
        terminal.output(3, "[3] ", f"bad {count}")
    terminal.ended(2, "2. beside: passed", bad=False)
    middle = screen(stream.getvalue())
    assert middle[-2].startswith("⠋ 3. beside")
    assert middle[-1] == "  │ bad 99"
    terminal.ended(3, "3. beside: failed", bad=True)
    terminal.line("the end")
    terminal.close()
    shown = screen(stream.getvalue())
    assert shown[:3] == ["run 1", "[1. alone] scrolls", "2. beside: passed"]
    assert shown[3] == "  │ bad 60"
    assert shown[-2:] == ["3. beside: failed", "the end"]
    assert stream.getvalue().endswith("\x1b[?25h")


def test_lines_are_cut_at_the_width_while_they_are_redrawn() -> None:
    stream = io.StringIO()
    terminal = LiveTerminal(stream, colour=True, width=30)
    terminal.begun(1, "1. " + "n" * 100, parallel=True)
    terminal.output(1, "", "\x1b[31m" + "x" * 100 + "\x1b[0m")
    terminal.begun(2, "2. b", parallel=True)
    terminal.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert max(len(line.strip("\r")) for line in plain.split("\n")) < 30


def test_without_a_terminal_every_line_is_whole() -> None:
    stream = io.StringIO()
    terminal = terminal_for(stream, live=False, colour=False, width=80)
    terminal.begun(1, "1. a", parallel=True)
    terminal.output(1, "[1. a] ", "text")
    terminal.ended(1, "1. a: passed", bad=False)
    terminal.close()
    assert stream.getvalue() == "[1. a] text\n"
