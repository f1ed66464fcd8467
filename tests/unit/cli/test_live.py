"""The live view: what stays on the screen, what is wiped, and the cursor comes back."""

from __future__ import annotations

import io

from lamina.cache.reason import Reason
from lamina.cli.live import Live
from lamina.engine.request import Notice, StepEnded, StepOutput, StepStarted

FIRST = Reason("first-build", "first build of this step")


def view(width: int = 60) -> tuple[Live, io.StringIO]:
    out = io.StringIO()
    return Live(out, colour=False, width=width), out


def test_a_failed_steps_output_stays_and_a_good_ones_does_not() -> None:
    live, out = view()
    live.report(StepStarted(1, "RUN good"))
    live.report(StepStarted(2, "RUN bad"))
    live.report(StepOutput(1, "stdout", b"kept quiet\n"))
    live.report(StepOutput(2, "stderr", b"first\nsec"))
    live.report(StepOutput(2, "stderr", b"ond\n"))
    before = out.getvalue()
    live.report(StepEnded(1, "RUN good", "ran", FIRST, 1.0, 0.0))
    live.report(StepEnded(2, "RUN bad", "failed", FIRST, 1.0, 0.0, "RUN bad ended with exit code 3"))
    said = out.getvalue()[len(before) :]
    live.close()
    assert "RAN    RUN good" in said
    assert "│ first\n" in said
    assert "│ second\n" in said
    assert said.index("second") < said.index("FAILED RUN bad")
    assert "exit code 3" in said
    permanent = said[said.index("FAILED") :]
    assert "kept quiet" not in permanent


def test_the_cursor_is_hidden_and_comes_back() -> None:
    live, out = view()
    live.report(StepStarted(1, "RUN x"))
    assert out.getvalue().startswith("\x1b[?25l")
    live.close()
    assert out.getvalue().endswith("\x1b[?25h")


def test_a_build_of_hits_never_touches_the_cursor() -> None:
    live, out = view()
    live.report(StepEnded(1, "RUN x", "hit", FIRST, 0.0, 2.0))
    live.report(Notice("warning", "mind"))
    live.close()
    assert "\x1b[?25" not in out.getvalue()
    assert "CACHED RUN x" in out.getvalue()
    assert "warning: mind" in out.getvalue()


def test_no_line_is_wider_than_the_terminal() -> None:
    live, out = view(30)
    live.report(StepStarted(1, "RUN " + "x" * 200))
    live.report(StepOutput(1, "stdout", b"y" * 500 + b"\n"))
    live.report(StepEnded(2, "RUN " + "z" * 200, "failed", Reason("x", "w" * 200), 1.0, 0.0))
    live.close()
    import re

    for line in re.sub(r"\x1b\[[0-9?]*[A-Za-z]|\r", "", out.getvalue()).splitlines():
        assert len(line) <= 30, line
