"""Builds on the dashboard while they run: the journal and its pages, without a socket."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.cache.reason import Reason
from lamina.engine.engine import Engine
from lamina.engine.request import BuildResult, ListedStep, Notice, StepEnded, StepOutput, StepStarted
from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer
from lamina.server.running import BUILD_LIMIT, LOG_LIMIT, Journal, LiveBuild, Running
from lamina.server.ui import livepages
from lamina.server.ui.livepages import log_text
from lamina.store.builds import BuildLog
from lamina.testing.engineapi import call, daemon_at, rows

HOSTILE = "<script>alert(1)</script>\"'&\x00\udc80"
WHY = Reason("file-changed", "main.c changed")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_at(tmp_path / "root", place="unix:///x.sock") as daemon:
        yield daemon


def listed(*texts: str) -> tuple[ListedStep, ...]:
    return tuple(ListedStep(0, "a", number, text, "RUN", True, number) for number, text in enumerate(texts, 1))


def get(daemon: Daemon, target: str, place: str = "localhost") -> Answer:
    reply = call(daemon, "GET", target, headers={"host": place})
    assert isinstance(reply, Answer)
    return reply


def page(daemon: Daemon, one: Running) -> str:
    return get(daemon, f"/ui/live/{one.snapshot().id}").body.decode()


def running() -> Running:
    return Running("x", "app", "test", lambda: 5.0)


def test_a_build_is_shown_as_it_goes_on(daemon: Daemon) -> None:
    assert "Running now" not in get(daemon, "/ui").body.decode()
    with daemon.journal.entry("app:1", "docker build") as one:
        assert "being looked up" in page(daemon, one)
        one.listed(listed("RUN make", "RUN test"))
        one.report(StepStarted(1, "[a 1/2] RUN make"))
        one.report(StepOutput(1, "stdout", b"\x1b[32mcompiling\x1b[0m\r\n"))
        shown = page(daemon, one)
        assert ">running<" in shown
        assert ">waiting<" in shown
        assert "\ncompiling\n" in shown.replace('">', "\n").replace("</pre>", "\n")
        assert "0 of 2" in shown
        one.report(StepEnded(1, "[a 1/2] RUN make", "ran", WHY, 1.5, 0.0))
        one.report(Notice("warning", "the base is old"))
        shown = page(daemon, one)
        assert "main.c changed" in shown
        assert "warning: the base is old" in shown
        assert "1 of 2" in shown
        assert 'data-again="1"' in shown
        lists = get(daemon, "/ui").body.decode()
        assert "Running now" in lists
        assert f'href="/ui/live/{one.snapshot().id}"' in lists
        one.end("", "")
    assert "Running now" not in get(daemon, "/ui").body.decode()


def test_without_scripting_the_browser_loads_it_again(daemon: Daemon) -> None:
    with daemon.journal.entry("app:1", "docker build") as one:
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page(daemon, one)
        one.end("", "no such base")
    assert "noscript" not in page(daemon, one)
    assert "data-again" not in page(daemon, one)


def test_an_ended_build_leads_to_the_kept_one(daemon: Daemon) -> None:
    daemon.engine.store.builds.add(BuildLog("b1", 1.0, "Dockerfile"))
    with daemon.journal.entry("app:1", "docker build") as one:
        one.end("b1", "")
    reply = get(daemon, f"/ui/live/{one.snapshot().id}")
    assert reply.status == 303
    assert dict(reply.headers)["Location"] == "/ui/builds/b1"
    assert get(daemon, "/ui/live/nothing").status == 404


def test_a_build_that_never_had_steps_says_why(daemon: Daemon) -> None:
    with daemon.journal.entry("app:1", "docker build") as one:
        one.end("", "<b>no such base</b>")
    assert "&lt;b&gt;no such base" in page(daemon, one)


def test_hostile_texts_are_escaped(daemon: Daemon) -> None:
    with daemon.journal.entry(HOSTILE, HOSTILE) as one:
        one.listed(listed(HOSTILE))
        one.report(StepStarted(1, HOSTILE))
        one.report(StepOutput(1, "stdout", b"</pre><script>alert(1)</script>\xff\x00\x1b]0;title\x07"))
        one.report(Notice("info", HOSTILE))
        bodies = [page(daemon, one), get(daemon, "/ui").body.decode()]
        one.report(StepEnded(1, HOSTILE, "failed", Reason("x", HOSTILE), 1.0, 0.0, HOSTILE))
        bodies.append(page(daemon, one))
        one.end("", HOSTILE)
    for body in [*bodies, page(daemon, one)]:
        assert "<script>alert" not in body
        assert "\x00" not in body
        assert "\x1b" not in body
        assert "</pre><script" not in body


def test_strangers_see_no_running_build(daemon: Daemon) -> None:
    with daemon.journal.entry("app:1", "docker build") as one:
        assert get(daemon, f"/ui/live/{one.snapshot().id}", "evil.example").status == 403
        daemon.place = "tcp://0.0.0.0:2376"
        assert get(daemon, f"/ui/live/{one.snapshot().id}").status == 401
        one.end("", "")


def test_output_is_kept_to_its_end_only() -> None:
    one = running()
    one.listed(listed(*(f"RUN {number}" for number in range(40))))
    for number in range(1, 41):
        one.report(StepOutput(number, "stdout", b"x" * LOG_LIMIT + b"end"))
    steps = one.snapshot().steps
    assert sum(len(step.log) for step in steps) <= BUILD_LIMIT
    assert steps[-1].log.endswith(b"end")
    assert steps[-1].left_out == 3
    assert steps[0].log == b""
    assert steps[0].left_out == LOG_LIMIT + 3


def test_steps_of_several_platforms_stand_one_after_the_other() -> None:
    one = running()
    for platform in ("linux/arm64", "linux/amd64"):
        one.report(Notice("info", f"platform {platform}", "platform"))
        one.listed(listed("RUN make"))
        one.report(StepEnded(1, "", "hit", WHY, 0.0, 1.0))
    assert [(step.stage, step.state) for step in one.snapshot().steps] == [("linux/arm64 a", "hit"), ("linux/amd64 a", "hit")]


def several_stages() -> tuple[ListedStep, ...]:
    """Two stages, one upon the other's files; instructions without a step have the number 0."""
    return (
        ListedStep(0, "made", 1, "FROM base AS made", "FROM", True, 0),
        ListedStep(0, "made", 2, "RUN make", "RUN", True, 1),
        ListedStep(0, "made", 3, "ENV A=b", "ENV", True, 0),
        ListedStep(0, "made", 4, "RUN test", "RUN", True, 2),
        ListedStep(1, "", 5, "FROM made", "FROM", True, 0),
        ListedStep(1, "", 6, "RUN more", "RUN", True, 3),
        ListedStep(2, "", 7, "FROM base", "FROM", True, 0),
        ListedStep(2, "", 8, "RUN make", "RUN", True, 1),
        ListedStep(2, "", 9, "COPY --from=1 /a /b", "COPY", True, 4),
    )


def test_what_a_step_stands_on_is_known_through_instructions_without_a_step() -> None:
    one = running()
    one.listed(several_stages())
    assert [(step.text, step.inputs) for step in one.snapshot().steps] == [
        ("RUN make", ()),
        ("RUN test", (0,)),
        ("RUN more", (1,)),
        ("COPY --from=1 /a /b", (0, 2)),
    ]
    one.listed(several_stages())  # of the next platform
    assert [step.inputs for step in one.snapshot().steps[4:]] == [(), (4,), (5,), (4, 6)]


def test_graph_and_timeline_of_a_build_that_goes_on() -> None:
    clock = [100.0]
    journal = Journal(lambda: clock[0])
    with journal.entry("app:1", "docker build") as one:
        one.listed(several_stages())
        before = livepages.build(one.snapshot(), clock[0]).decode()
        assert before.count('class="node none"') == 4
        assert "No step has begun." in before
        one.report(StepEnded(1, "", "hit", WHY, 0.0, 4.0))
        clock[0] = 110.0
        one.report(StepStarted(2, ""))
        clock[0] = 120.0
        shown = livepages.build(one.snapshot(), clock[0]).decode()
        assert [shown.count(f'class="node {word}"') for word in ("hit", "running", "none")] == [1, 1, 2]
        assert 'href="#step-1"' in shown
        # The running one is half of the twenty seconds that the build has taken.
        assert 'x="470.0" y="28" width="210.0"' in shown
        assert "bar running" in shown
        one.report(StepEnded(2, "", "failed", WHY, 10.0, 0.0, "ended with exit code 1\nand more"))
        one.end("", "no")
    clock[0] = 1000.0
    shown = livepages.build(one.snapshot(), clock[0]).decode()
    assert "failed: ended with exit code 1" in shown
    assert 'x="470.0" y="28" width="210.0"' in shown
    assert "bar running" not in shown


def test_events_of_steps_that_are_not_listed_do_no_harm() -> None:
    one = running()
    one.report(StepStarted(7, "x"))
    one.report(StepOutput(7, "stdout", b"x"))
    one.report(StepEnded(7, "x", "ran", WHY, 0.0, 0.0))
    assert one.snapshot().steps == ()


def test_ended_builds_are_forgotten_in_the_end() -> None:
    journal = Journal(lambda: 5.0)
    first = ""
    for _ in range(101):
        with journal.entry("app", "test") as one:
            first = first or one.snapshot().id
            one.end("b", "")
    assert journal.get(first) is None
    assert journal.running() == []


def test_a_line_that_is_written_over_is_several() -> None:
    assert log_text(b"10%\r20%\r\n\x1b[1;31mred\x1b[m") == "10%\n20%\nred"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="the store of this test has root's layers")
def test_builds_of_clients_are_in_it(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Engine.build
    seen: list[LiveBuild] = []

    def watched(self: Engine, *arguments: object) -> BuildResult:
        result = original(self, *arguments)  # type: ignore[arg-type]  # what it was given goes on as it came
        seen.extend(daemon.journal.running())
        return result

    monkeypatch.setattr(Engine, "build", watched)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in {"Dockerfile": b"FROM scratch\nCOPY a /\n", "a": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert "Successfully tagged" in rows(daemon, "POST", "/build?t=made:1", context.getvalue())[-1]["stream"]
    assert [one.title for one in seen] == ["made:1"]
    assert [(step.text, step.state) for step in seen[0].steps] == [("COPY a /", "ran")]
    assert daemon.journal.running() == []
    kept = daemon.journal.get(seen[0].id)
    assert kept is not None
    assert daemon.engine.store.builds.get(kept.kept) is not None
