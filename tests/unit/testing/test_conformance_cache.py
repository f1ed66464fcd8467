"""The judge of the cache scenarios: what it lets pass, and what it must not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamina.testing.conformance import NoData, run
from lamina.testing.conformance.cache import Build, CutOff, Expected, Played, Step, recorded, verdict_differences
from lamina.testing.conformance.cachereasons import Change, Told, Watcher, unexplained


def told(line: int, verdict: str = "ran", code: str = "text-changed", message: str = "it", key: str = "", text: str = "RUN x") -> Told:
    return Told(line, text, verdict, code, message, (), key, False)


def differences(build: Build, *want: bool | None, cut_off: CutOff = "off", fails: bool = False) -> list[str]:
    steps = tuple(replace(step, cached=cached) for step, cached in zip(build.steps, want, strict=True))
    return list(verdict_differences(Played("s", cut_off, (build,)), [Expected(steps, fails)]))


def a_build(*verdicts: tuple[int, bool | None], keys: tuple[str, ...] = (), code: str = "same-key") -> Build:
    """Steps in lines 2, 3 … of the given stages."""
    steps = tuple(Step(n, stage, "RUN x", cached) for n, (stage, cached) in enumerate(verdicts, 2))
    names = keys or tuple(f"key {step.line}" for step in steps)
    rows = tuple(told(s.line, "hit" if s.cached else "ran", code, key=key) for s, key in zip(steps, names))
    return Build(steps, rows, "", None)


def test_equal_and_unequal_verdicts() -> None:
    build = a_build((0, True), (0, False))
    assert not differences(build, True, False)
    assert "line 3: RUN x: run, recorded is a hit" in differences(build, True, True)[0]
    assert "recorded is not taken up" in differences(build, None, False)[0]


def test_a_build_that_fails() -> None:
    build = Build((), (), "no space", None)
    assert differences(build) == ["build 1 failed: no space"]
    assert not differences(build, fails=True)
    assert differences(a_build((0, True)), True, fails=True) == ["build 1 did not fail"]


@pytest.mark.parametrize(("cut_off", "code", "passes"), [("on", "cut-off", True), ("off", "cut-off", False), ("on", "same-key", False)])
def test_a_hit_by_cut_off_where_buildkit_ran(cut_off: CutOff, code: str, passes: bool) -> None:
    build = a_build((0, True), code=code)
    assert (not differences(build, False, cut_off=cut_off)) is passes
    assert differences(a_build((0, False), code=code), True, cut_off=cut_off), "never the other way round"


def test_a_merged_pair_is_shown_in_one_stage() -> None:
    pair = a_build((0, False), (1, False), keys=("k", "k"))
    assert not differences(pair, None, False)
    assert not differences(pair, False, None)
    assert differences(pair, None, None)
    assert differences(pair, None, True)
    assert differences(a_build((0, False), (1, False)), None, False), "other keys are no pair"
    assert differences(a_build((0, False), (1, True), keys=("k", "k")), None, False), "a pair has one verdict"


def test_what_is_left_of_a_stage_is_recorded_at_its_first_instructions() -> None:
    build = a_build((0, True), (1, True), (1, False), keys=("k", "k", "other"))
    assert not differences(build, True, False, None)
    assert not differences(build, None, True, False)
    assert differences(build, True, True, None)


def test_own_expectations_go_before_buildkits(tmp_path: Path) -> None:
    step = {"line": 1, "stage": 0, "cached": False, "text": "FROM x", "note": "triggers cached: 1, in all: 2"}
    builds = {"builds": [{"steps": [step]}]}
    (tmp_path / "expected-buildkit.json").write_text(json.dumps({"scenarios": {"a": builds, "b": builds}}))
    (tmp_path / "lamina-differs.json").write_text(json.dumps({"b": {"expect": ["C"]}}))
    found = recorded(tmp_path)
    assert found["a"][0].steps == (Step(1, 0, "FROM x", False, (1, 2)),)
    assert found["b"][0].steps == (Step(1, 0, "FROM x", True, (1, 2)),)


def test_a_folder_without_scenarios(tmp_path: Path) -> None:
    with pytest.raises(NoData):
        list(run("cache", tmp_path))


# Reasons


def change(tmp_path: Path, before: str, after: str, *mutations: dict[str, Any], ignore: tuple[str, str] | None = None) -> Change:
    world = SimpleNamespace(ctx=str(tmp_path), dockerfile=before.split("\n"), fill=lambda text: text.replace("@base@", "host/base:1"))
    if ignore:
        (tmp_path / ".dockerignore").write_text(ignore[0])
    watcher = Watcher(world)
    world.dockerfile = after.split("\n")
    if ignore:
        (tmp_path / ".dockerignore").write_text(ignore[1])
    return watcher.change(mutations)


@pytest.mark.parametrize(
    ("mutation", "named", "not_named"),
    [
        ({"op": "write", "path": "dir/one"}, "dir/one changed", "one changed"),
        ({"op": "write", "path": "../named-extra/sub/e"}, "sub/e changed in context extra", "e changed"),
        ({"op": "rename", "path": "a", "to": "b"}, "b added", "bb added"),
        ({"op": "arg", "name": "V", "value": "2"}, "build argument V: 1 -> 2", "build argument V2: 1 -> 2"),
        ({"op": "flag", "name": "no_cache", "value": True}, "asked for by --no-cache", "asked for"),
        ({"op": "image", "name": "base", "spec": {}}, "base host/base:1 moved", "base host/base:12 moved"),
        ({"op": "image", "name": "base", "spec": {"env": {"Z": "1"}}}, "variable Z is new", "a variable is new"),
        ({"op": "image", "name": "base", "spec": {"workdir": "/w"}}, "WORKDIR: / -> /w", "an option changed"),
    ],
)
def test_names_of_mutations(tmp_path: Path, mutation: dict[str, Any], named: str, not_named: str) -> None:
    found = change(tmp_path, "FROM x", "FROM x", mutation)
    assert found.is_named_by(named)
    assert not found.is_named_by(not_named)


@pytest.mark.parametrize(
    ("before", "after", "named", "not_named"),
    [
        ("RUN echo a", "RUN echo z", "changed: RUN echo a -> RUN echo z", "the command changed: RUN echo"),
        ("RUN echo a", "RUN echo  a", "only white space of the command changed", "the command changed: echo a"),
        ("ENV A=1", "ENV A=2", "variable A: 1 -> 2", "variable B: 1 -> 2"),
        ("ARG V=1\nRUN a", "RUN a\nARG V=1", "variable V is gone", "variable W is gone"),
        ("COPY a b /d/", "COPY b a /d/", "COPY a b /d/ -> COPY b a /d/", "instruction changed"),
        ("WORKDIR /a", "WORKDIR /b", "WORKDIR: /a -> /b", "an option changed"),
        ("COPY <<E /x\none\nE", "COPY <<E /x\ntwo\nE", "the here-document changed", "something changed"),
        ("RUN --mount=type=cache,id=one,target=/c x", "RUN --mount=type=cache,id=two,target=/c x", "id=two", "type=cache"),
    ],
)
def test_names_of_changed_instructions(tmp_path: Path, before: str, after: str, named: str, not_named: str) -> None:
    found = change(tmp_path, before, after)
    assert found.is_named_by(named)
    assert not found.is_named_by(not_named)


def test_names_of_what_an_ignore_file_leaves_out(tmp_path: Path) -> None:
    found = change(tmp_path, "FROM x", "FROM x", ignore=("a.log\n", "a.log\nother.txt\n"))
    assert found.is_named_by("other.txt removed")
    assert not found.is_named_by("a.log removed")


def test_a_step_names_the_change_or_a_step_that_ran() -> None:
    one, two = told(2, message="a.txt changed"), told(3, code="parent-changed", message="follows line 2: COPY (…)")
    known = Change(frozenset({"a.txt"}))
    assert not list(unexplained([one, two], known))
    assert list(unexplained([two], known)), "the step that it follows did not run"
    assert list(unexplained([replace(one, message="files changed")], known))
    assert not list(unexplained([replace(one, message="files changed")], None)), "nothing was changed"


@pytest.mark.parametrize(
    "row", [told(2, code="because"), told(2, "hit", "text-changed"), told(2, "hit", "same-key", " "), told(2, "none", "")]
)
def test_a_step_without_a_reason(row: Told) -> None:
    assert list(unexplained([row], None))
