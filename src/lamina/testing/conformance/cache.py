"""Recorded cache scenarios, really built: a Dockerfile, a context and flags, a change, and what each instruction came to.

Data: `cache/` with scenarios.json, expected-buildkit.json, lamina-differs.json and oracle.py, which makes the contexts, images and pages,
calls the builder and reads its report. The command line runs inside this process, with a store for each scenario and a registry for all,
once with LAMINA_CUT_OFF=off and once with the cut-off. Needs root, docker-registry and a static busybox.

What must hold of each build:
- without the cut-off each instruction is cached, run or not taken up as recorded (lamina-differs.json goes before BuildKit's record);
- with it an instruction may also be a hit where BuildKit ran it, if its reason's code is `cut-off`;
- *merged steps*: BuildKit makes two instructions that are the same work (equal keys) one step and shows it under one of their stages;
  lamina gives each a verdict of its own. The recorder gives what a stage shows to the stage's first instructions of that word. So all
  instructions of one key must have one verdict, and for one choice of who is shown the rest, placed as the recorder does, must be equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from lamina.testing import bases
from lamina.testing.conformance import NoData, Outcome, locate
from lamina.testing.conformance.cachereasons import Change, Told, Watcher, unexplained
from lamina.testing.registry import docker_registry

CutOff = Literal["off", "on"]
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction as oracle.py sees it. `cached` None: not taken up. `triggers`: (hits, all) of the ONBUILD triggers of a FROM."""

    line: int
    stage: int
    text: str
    cached: bool | None
    triggers: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a scenario. `told` is its report; `change` what was done to the scenario before it, None for nothing."""

    steps: tuple[Step, ...]
    told: tuple[Told, ...]
    error: str
    change: Change | None


@dataclass(frozen=True, slots=True)
class Expected:
    steps: tuple[Step, ...]
    fails: bool


@dataclass(frozen=True, slots=True)
class Played:
    scenario: str
    cut_off: CutOff
    builds: tuple[Build, ...]


def why_not() -> str | None:
    """The reason why scenarios cannot be built on this machine, or None."""
    if os.geteuid():
        return "building the scenarios needs uid 0"
    if shutil.which("docker-registry") is None:
        return "docker-registry is not installed (make test-deps)"
    return bases.why_not()


def run(directory: Path) -> Iterator[Outcome]:
    """Two outcomes for each scenario and switch: its verdicts and its reasons."""
    folder = locate(directory, "cache/scenarios.json", "scenarios.json").parent
    reason = why_not()
    if reason is not None:
        raise NoData(reason)
    expected = recorded(folder)
    for played in play_all(folder):
        name = f"{played.scenario} (cut-off {played.cut_off})"
        yield Outcome(name, tuple(verdict_differences(played, expected[played.scenario])))
        yield Outcome(f"{name}: reasons", tuple(reason_differences(played)))


def recorded(folder: Path) -> dict[str, tuple[Expected, ...]]:
    """What is expected of each build of each scenario."""
    own: dict[str, dict[str, list[str]]] = _json(folder, "lamina-differs.json")
    found = {}
    for name, scenario in _json(folder, "expected-buildkit.json")["scenarios"].items():
        found[name] = tuple(
            Expected(tuple(_expected_steps(build["steps"], own[name]["expect"][number] if name in own else None)), "error" in build)
            for number, build in enumerate(scenario["builds"])
        )
    return found


def _expected_steps(steps: Iterable[dict[str, Any]], marks: str | None) -> Iterator[Step]:
    for number, step in enumerate(steps):
        cached = step["cached"] if marks is None else {"C": True, "x": False, ".": None}[marks[number]]
        yield Step(step["line"], step["stage"], step["text"], cached, _triggers(step.get("note", "")))


def _triggers(note: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"triggers cached: (\d+), in all: (\d+)", note)
    return (int(found[1]), int(found[2])) if found else None


def _json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


# Playing


def play_all(folder: Path, names: Sequence[str] | None = None, workers: int = _WORKERS) -> list[Played]:
    """Every scenario (or those of `names`) under both switches, in the order of the file; in a few processes that share a registry."""
    chosen = [s["id"] for s in _json(folder, "scenarios.json") if names is None or s["id"] in names]
    found: dict[tuple[str, str], Played] = {}
    with (
        tempfile.TemporaryDirectory(prefix="lamina-scenarios-") as place,
        docker_registry(Path(place)) as host,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        parts = [pool.submit(_play_some, folder, host, place, chosen[n::workers]) for n in range(workers)]
        for part in parts:
            found |= {(played.scenario, played.cut_off): played for played in part.result()}
    return [found[name, cut_off] for name in chosen for cut_off in ("off", "on")]


def _play_some(folder: Path, host: str, place: str, names: Sequence[str]) -> list[Played]:
    """In a process of its own."""
    tempfile.tempdir = place
    oracle = _oracle(folder, host)
    registry, web = oracle.Registry(), oracle.Web()
    scenarios = {s["id"]: s for s in _json(folder, "scenarios.json")}
    switches: tuple[CutOff, ...] = ("off", "on")
    return [play(oracle, scenarios[name], registry, web, Path(place), cut_off) for name in names for cut_off in switches]


def _oracle(folder: Path, host: str) -> Any:
    """oracle.py as a module, whose registry is `host` and whose programs are commands of this process."""
    spec = importlib.util.spec_from_file_location("cache_oracle", folder / "oracle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cache_oracle"] = module
    spec.loader.exec_module(module)
    module.REGISTRY = host  # type: ignore[attr-defined]  # read from the environment when it was imported
    return module


def play(oracle: Any, scenario: dict[str, Any], registry: Any, web: Any, place: Path, cut_off: CutOff) -> Played:
    """All builds of one scenario, in a store of its own."""
    salt = hashlib.sha256(f"{scenario['id']}/{place}".encode()).hexdigest()[:10]
    with tempfile.TemporaryDirectory(prefix="lab-", dir=place) as top:
        here = InProcess({"LAMINA_ROOT": f"{top}/store", "LAMINA_CUT_OFF": cut_off})
        builds: list[Build] = []
        (Path(top) / "world").mkdir()
        world = oracle.World(scenario, f"{top}/world", registry, web, salt)
        with mock.patch.object(oracle, "run", here.run), mock.patch.dict(os.environ, {"LAB_LAMINA_ROOT": here.environment["LAMINA_ROOT"]}):
            backend = oracle.Lamina()
            for mutations in [None, *scenario["builds"]]:
                watcher = Watcher(world)
                for mutation in mutations or ():
                    world.mutate(mutation)
                change = watcher.change(mutations) if mutations else None
                here.report = []
                made = world.build(backend)
                steps = tuple(Step(s.line, s.stage, s.text, s.cached, _triggers_of(here.report, s.line)) for s in made.get("steps", ()))
                builds.append(
                    Build(steps, tuple(_told(row) for row in here.report), made.get("error", made.get("unsupported", "")), change)
                )
        return Played(scenario["id"], cut_off, tuple(builds))


def _triggers_of(report: Sequence[Mapping[str, Any]], line: int) -> tuple[int, int] | None:
    """Triggers that are steps: BuildKit shows no others (an ONBUILD ARG)."""
    verdicts = [row["verdict"] for row in report if row["trigger"] and row["line"] == line and row["verdict"] in ("hit", "ran")]
    return (verdicts.count("hit"), len(verdicts)) if verdicts else None


def _told(row: Mapping[str, Any]) -> Told:
    reason = row["reason"]
    return Told(
        row["line"],
        row["text"],
        row["verdict"],
        reason["code"],
        reason["message"],
        tuple(reason.get("details", ())),
        row.get("key", ""),
        row["trigger"],
    )


class InProcess:
    """Runs `lamina …` in this process with a small environment, and keeps the report before its folder goes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.report: list[dict[str, Any]] = []

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None, *_: object) -> tuple[int, str]:
        """(exit code, all output), as oracle.py's own."""
        from lamina.cli.main import run

        output = io.StringIO()
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with (
            mock.patch.dict(os.environ, {**kept, **self.environment, **(environment or {})}, clear=True),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            code = run([str(word) for word in command[1:]])
        report = Path(command[command.index("--report") + 1]) if "--report" in command else None
        if report is not None and report.exists():
            self.report = json.loads(report.read_text(encoding="utf-8"))["steps"]
        return code, output.getvalue()


# Judging


def verdict_differences(played: Played, expected: Sequence[Expected]) -> Iterator[str]:
    """In words, what is not as recorded."""
    if len(played.builds) != len(expected):
        yield f"{len(played.builds)} builds, recorded are {len(expected)}"
    for number, (build, wanted) in enumerate(zip(played.builds, expected), 1):
        if bool(build.error) != wanted.fails:
            yield f"build {number} {'failed: ' + build.error if build.error else 'did not fail'}"
            continue
        if [step.line for step in build.steps] != [step.line for step in wanted.steps]:
            yield f"build {number}: the steps stand in lines {[s.line for s in build.steps]}, recorded are {[s.line for s in wanted.steps]}"
            continue
        candidates = [[*_differing(played, build, shown, wanted)] for shown in as_shown(build)]
        found = min(candidates, key=len, default=["instructions of one key have different verdicts"])
        yield from (f"build {number}, {difference}" for difference in found)


def _differing(played: Played, build: Build, shown: Sequence[bool | None], wanted: Expected) -> Iterator[str]:
    for step, cached, want in zip(build.steps, shown, wanted.steps):
        if cached != want.cached and not _cut_off(played, build, step, want.cached):
            yield f"line {step.line}: {step.text}: {_word(cached)}, recorded is {_word(want.cached)}; {_reasons(build, step.line)}"
        if step.triggers != want.triggers and not (played.cut_off == "on" and _triggers_cut_off(build, step, want)):
            yield f"line {step.line}: triggers (hits, all) {step.triggers}, recorded are {want.triggers}"


def as_shown(build: Build) -> Iterator[list[bool | None]]:
    """For each choice of who is shown of merged instructions: what the recorder would write down for each step. None where the
    instructions of one key disagree."""
    merged: dict[str, list[Step]] = {}
    for step in build.steps:
        row = _row(build, step.line)
        if step.cached is not None and row is not None and row.key:
            merged.setdefault(row.key, []).append(step)
    groups = [group for group in merged.values() if len(group) > 1]
    if any(len({step.cached for step in group}) > 1 for group in groups):
        return
    for choice in itertools.product(*groups):
        hidden = [step for group, shown in zip(groups, choice) for step in group if step is not shown]
        yield _placed(build.steps, hidden)


def _placed(steps: Sequence[Step], hidden: Sequence[Step]) -> list[bool | None]:
    """In a stage with hidden steps the others' verdicts go to the first instructions of their word."""
    stages = {step.stage for step in hidden}
    left: dict[tuple[int, str], list[bool | None]] = {}
    for step in steps:
        if step.stage in stages and step not in hidden:
            left.setdefault((step.stage, step.text.split()[0].upper()), []).append(step.cached)
    return [_next(left.get((step.stage, step.text.split()[0].upper()), [])) if step.stage in stages else step.cached for step in steps]


def _next(verdicts: list[bool | None]) -> bool | None:
    return verdicts.pop(0) if verdicts else None


def _row(build: Build, line: int) -> Told | None:
    return next((row for row in build.told if row.line == line and not row.trigger), None)


def _cut_off(played: Played, build: Build, step: Step, recorded: bool | None) -> bool:
    row = _row(build, step.line)
    return played.cut_off == "on" and recorded is False and step.cached is True and row is not None and row.code == "cut-off"


def _triggers_cut_off(build: Build, step: Step, want: Step) -> bool:
    more = sum(1 for row in build.told if row.trigger and row.line == step.line and row.code == "cut-off")
    return step.triggers is not None and want.triggers is not None and step.triggers == (want.triggers[0] + more, want.triggers[1])


def _word(cached: bool | None) -> str:
    return {True: "a hit", False: "run", None: "not taken up"}[cached]


def _reasons(build: Build, line: int) -> str:
    return "; ".join(f"{row.code}: {row.message}" for row in build.told if row.line == line) or "no reason"


def reason_differences(played: Played) -> Iterator[str]:
    """In words: steps without a reason, codes that are not in the list, misses that do not name what the scenario changed."""
    for number, build in enumerate(played.builds, 1):
        for problem in unexplained(build.told, build.change):
            yield f"build {number}, {problem}"
