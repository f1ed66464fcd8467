from __future__ import annotations

import json
from collections.abc import Sequence

from lamina.cache.reason import Reason, Verdict
from lamina.engine.request import ListedStep, StepEnded, StepOutput, StepStarted
from lamina.server.classic import Transcript
from lamina.server.rows import RowWriter
from lamina.testing.engineapi import Client

IMAGE = "sha256:" + "ab" * 32
STEPS = (
    ListedStep(0, "base", 1, "FROM busybox AS base", "FROM", True, 0),
    ListedStep(0, "base", 2, "LABEL a=1", "LABEL", True, 0),
    ListedStep(0, "base", 3, "RUN one", "RUN", True, 1),
    ListedStep(1, "", 4, "FROM base", "FROM", True, 0),
    ListedStep(1, "", 5, "COPY x /", "COPY", True, 2),
)


def ended(number: int, verdict: Verdict, key: str = "k") -> StepEnded:
    return StepEnded(number, f"step {number}", verdict, Reason("code", f"because {number}"), 0.0, 0.0, key=key)


def play(events: Sequence[object], seen: set[bytes], *, image: str = IMAGE, quiet: bool = False) -> tuple[list[str], Transcript]:
    client = Client()
    transcript = Transcript(RowWriter(client), lambda name: IMAGE, seen.__contains__, {}, fresh=False, quiet=quiet)
    transcript.listed(STEPS)
    for event in events:
        transcript.report(event)  # type: ignore[arg-type]  # one of the events
    transcript.close()
    if image:
        transcript.finish(image, ["app:1"])
    seen.update(transcript.made)
    return [row.get("stream", "") for row in map(json.loads, filter(None, bytes(client.got).split(b"\r\n")))], transcript


RAN = [StepStarted(1, ""), StepOutput(1, "stdout", b"out of one\n"), ended(1, "ran"), StepStarted(2, ""), ended(2, "ran")]


def test_steps_are_told_in_the_file_s_order_whatever_ends_first() -> None:
    lines, _ = play([StepStarted(2, ""), ended(2, "ran"), *RAN[:3]], set())
    assert [line.split(" : ")[0] for line in lines if line.startswith("Step")] == [f"Step {n}/5" for n in range(1, 6)]
    assert lines.index("out of one\n") < lines.index("Step 4/5 : FROM base\n")
    assert lines[-2:] == [f"Successfully built {IMAGE[7:19]}\n", "Successfully tagged app:1\n"]


def test_each_step_has_its_reason() -> None:
    lines, _ = play(RAN, set())
    assert " ---- because 1\n" in lines
    assert " ---- because 2\n" in lines


def test_the_second_build_uses_the_cache_for_config_too() -> None:
    seen: set[bytes] = set()
    first, _ = play(RAN, seen)
    second, _ = play([ended(1, "hit"), ended(2, "hit")], seen)
    assert first.count(" ---> Using cache\n") == 0
    assert second.count(" ---> Using cache\n") == 3


def test_a_hit_that_docker_would_not_have_had_is_called_otherwise() -> None:
    seen: set[bytes] = set()
    play(RAN, seen)
    lines, _ = play([ended(1, "hit", key="another"), ended(2, "hit")], seen)
    assert lines.count(" ---> Taken over\n") == 2


def test_on_a_fresh_machine_every_hit_is_the_cache_s() -> None:
    lines, _ = play([ended(1, "hit"), ended(2, "hit")], set())
    assert lines.count(" ---> Using cache\n") == 2


def test_a_failed_step_ends_it_with_its_output() -> None:
    lines, transcript = play([StepStarted(1, ""), StepOutput(1, "stderr", b"oh no\n"), ended(1, "failed")], set(), image="")
    assert lines[-1] == "oh no\n"
    failed = transcript.failed_step()
    assert failed is not None
    assert failed.text == "RUN one"


def test_quiet_says_the_id_alone() -> None:
    assert play(RAN, set(), quiet=True)[0] == [IMAGE + "\n"]
