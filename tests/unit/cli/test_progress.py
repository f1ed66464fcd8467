"""What a build prints: plain lines, JSON lines, nothing."""

from __future__ import annotations

import io
import json

import pytest

from lamina.cache.reason import Reason
from lamina.cli.live import Live
from lamina.cli.progress import JsonLines, Mode, Paint, Plain, Quiet, choose, step_line, summary
from lamina.engine.request import BuildResult, Notice, StepEnded, StepOutput, StepReport, StepStarted

FIRST = Reason("first-build", "first build of this step")


def ended(verdict: str, *, seconds: float = 0.0, saved: float = 0.0, error: str | None = None, reason: Reason = FIRST) -> StepEnded:
    return StepEnded(1, "[2/2] COPY a /a", verdict, reason, seconds, saved, error)  # type: ignore[arg-type]  # a Verdict, from the parametrize


def plain(*events: StepStarted | StepOutput | StepEnded | Notice) -> str:
    out = io.StringIO()
    view = Plain(out, colour=False)
    for event in events:
        view.report(event)
    view.close()
    return out.getvalue()


def test_a_start_says_only_that() -> None:
    """The word is the same for RUN, COPY and ADD; the instruction stands in the name."""
    said = plain(StepStarted(1, "[2/2] COPY a /a"))
    assert said == "START  [2/2] COPY a /a  (#1)\n"


def test_output_comes_in_whole_lines_with_its_number() -> None:
    said = plain(StepOutput(3, "stdout", b"one\ntw"), StepOutput(4, "stdout", b"other\n"), StepOutput(3, "stdout", b"o\nrest"))
    assert said == "#3 | one\n#4 | other\n#3 | two\n#3 | rest\n"


def test_output_cannot_play_with_the_terminal() -> None:
    said = plain(StepOutput(1, "stdout", b"\x1b[31mred\x1b[0m \x07bell \x1b]0;title\x07end\n10%\r100%\r\n\xff\n"))
    assert said == "#1 | red bell end\n#1 | 100%\n#1 | �\n"


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ended("hit", saved=3.0), "CACHED [2/2] COPY a /a  saved 3.0 s"),
        (ended("hit", saved=0.01), "CACHED [2/2] COPY a /a"),
        (ended("ran", seconds=65), "RAN    [2/2] COPY a /a  1 m 05 s"),
        (ended("failed", seconds=1), "FAILED [2/2] COPY a /a  1.0 s"),
    ],
)
def test_a_step_that_ended(event: StepEnded, line: str) -> None:
    assert step_line(event, Paint(False)) == f"{line}\n       └ first build of this step"


def test_a_failed_step_shows_what_went_wrong_and_no_cache_reason() -> None:
    said = plain(ended("failed", error="RUN cannot be executed here: no namespaces\nand more"))
    assert "RUN cannot be executed here: no namespaces" in said
    assert "first build" not in said
    assert "and more" not in said


def test_a_line_is_cut_to_the_terminals_width() -> None:
    assert all(len(line) <= 20 for line in step_line(ended("hit", saved=3.0), Paint(False), 20).splitlines())


def test_colours_are_asked_for() -> None:
    assert step_line(ended("hit"), Paint(True)).startswith("\x1b[32mCACHED\x1b[0m ")
    assert "\x1b" not in step_line(ended("hit"), Paint(False))


def test_notices() -> None:
    assert plain(Notice("warning", "mind"), Notice("info", "note")) == "warning: mind\nnote\n"


def test_json_lines() -> None:
    out = io.StringIO()
    view = JsonLines(out)
    view.report(StepStarted(1, "RUN true"))
    view.report(StepOutput(1, "stderr", b"\xffo"))
    view.report(ended("failed", seconds=0.12345, error="no"))
    view.report(Notice("warning", "mind", "x"))
    view.close()
    documents = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [d["event"] for d in documents] == ["started", "output", "ended", "notice"]
    assert documents[1]["data"] == "�o"
    assert documents[2]["error"] == "no"
    assert documents[2]["reason"] == {"code": "first-build", "message": "first build of this step"}
    assert documents[2]["seconds"] == 0.1235


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Quiet().report(ended("failed"))
    Quiet().close()
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("mode", "stream", "kind"),
    [
        ("auto", io.StringIO(), Plain),
        ("auto", Terminal(), Live),
        ("plain", Terminal(), Plain),
        ("tty", io.StringIO(), Live),
        ("json", Terminal(), JsonLines),
        ("quiet", Terminal(), Quiet),
    ],
)
def test_which_view(mode: Mode, stream: io.StringIO, kind: type) -> None:
    assert type(choose(mode, stream, colour=False, width=80)) is kind


def test_summary() -> None:
    def row(verdict: str, saved: float = 0.0) -> StepReport:
        return StepReport(0, "", 1, "RUN x", verdict, FIRST, saved=saved)  # type: ignore[arg-type]  # a Verdict

    result = BuildResult("b", (row("hit", 40), row("hit", 1), row("ran"), row("none"), row("skipped")), (), 3.2)
    assert summary(result) == "2 cached (saved 41.0 s), 1 ran, 1 not needed, 3.2 s in all"
    assert summary(BuildResult("b", (), (), 0.0)) == "0 cached, 0 ran, 0.00 s in all"
