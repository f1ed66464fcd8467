"""`lamina pipeline logs`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli import inputs
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.pipelines.run.history import Project, RunRecord

_LOOK = 0.2  # seconds between looks at a run that goes on


@click.command("logs", short_help="Show the logs of a run")
@click.argument("number", type=click.IntRange(1), required=False, metavar="[RUN]")
@click.option("-C", "path", default=".", metavar="PATH", help="The repository (default: the current folder).")
@click.option("--step", "steps", multiple=True, metavar="STEP", help="Only this step, by number or name; repeatable.")
@click.option("--services", is_flag=True, help="The logs of services, too.")
@click.option("--failed", is_flag=True, help="Only the steps that failed.")
@click.option("-f", "--follow", is_flag=True, help="Go on while the run does.")
@click.option("--list", "listing", is_flag=True, help="List the runs that are kept, newest first.")
@click.pass_obj
def logs(
    settings: Settings,
    /,
    number: int | None,
    path: str,
    steps: tuple[str, ...],
    services: bool,
    failed: bool,
    follow: bool,
    listing: bool,
) -> int:
    """Show what the steps of a run printed (default: the last run), secured variables masked. The last 20 runs are kept.

    \b
    Examples:
      lamina pipeline logs
      lamina pipeline logs 12 --step 'Build 2'
      lamina pipeline logs --follow
    """
    from lamina.cli.commands.pipeline_run import project_identity
    from lamina.pipelines import worktree
    from lamina.pipelines.run.history import NoRun, Project
    from lamina.pipelines.show import visible

    project = Project(settings.root, project_identity(worktree.inspect(Path(path))))
    if listing:
        for line in _listed(project):
            print(line)
        return 0
    number = number or max(project.numbers(), default=0)
    record = project.read(number) if number else None
    if record is None:
        known = ", ".join(str(one) for one in reversed(project.numbers()))
        raise NoRun(
            f"there is no run {number}" if number else "no run of this repository is kept", hint=f"kept: {known}" if known else None
        )
    wanted = _wanted(record, steps, failed=failed)
    width = min(40, max((len(f"{one}. {title}") for one, title in wanted.items()), default=0))
    shown: dict[Path, _Reader] = {}
    while True:
        running = project.running(number)
        for name, prefix in _files(project.place(number) / "logs", wanted, services=services, width=width):
            for line in shown.setdefault(name, _Reader(name, prefix)).lines(ended=not (running and follow)):
                print(line, flush=follow)
        if not follow or not running:
            break
        time.sleep(_LOOK)
    record = project.read(number) or record
    if follow and record.passed is not None:
        print(f"run {number}: {'passed' if record.passed else 'failed'}")
    if not shown:
        print(f"run {number}: {visible(record.pipeline)}: no step has printed anything")
    return 0


class _Reader:
    """Whole lines of a file that may grow."""

    def __init__(self, file: Path, prefix: str) -> None:
        self._file = open(file, "rb")  # noqa: SIM115 - open as long as the command
        self._prefix = prefix
        self._rest = b""

    def lines(self, *, ended: bool) -> Iterator[str]:
        from lamina.pipelines.run.log import shown

        while data := self._file.read(1 << 20):
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                yield self._prefix + shown(line)
        if ended and self._rest:
            yield self._prefix + shown(self._rest)
            self._rest = b""


def _wanted(record: RunRecord, steps: tuple[str, ...], *, failed: bool) -> dict[int, str]:
    """number -> name of the steps that are shown."""
    titles = {step.number: step.name for step in record.outline} | {step.number: step.name for step in record.steps}
    if failed:
        titles = {step.number: step.name for step in record.steps if step.bad}
    if not steps:
        return dict(sorted(titles.items()))
    found: dict[int, str] = {}
    for text in steps:
        numbers = [number for number, title in titles.items() if title == text or str(number) == text]
        if not numbers:
            from lamina.diagnostics.errors import nearest

            near = nearest(text, list(titles.values()))
            raise inputs.BadOption(f"--step {text!r} is no step of run {record.number}", hint=f"did you mean {near!r}?" if near else None)
        found |= {number: titles[number] for number in numbers}
    return dict(sorted(found.items()))


def _files(folder: Path, wanted: dict[int, str], *, services: bool, width: int) -> Iterator[tuple[Path, str]]:
    """Each log with what stands before its lines, in the order of the steps."""
    for number, title in wanted.items():
        head = f"{number}. {title}"
        if (folder / f"{number}.log").exists():
            yield folder / f"{number}.log", f"[{head:<{width}}] "
        if services:
            for file in sorted(folder.glob(f"{number}-*.log")):
                yield file, f"[{head}: {file.stem.partition('-')[2]}] "


def _listed(project: Project) -> Iterator[str]:
    from lamina.cli.words import age, seconds
    from lamina.pipelines.show import visible

    for number in reversed(project.numbers()):
        record = project.read(number)
        if record is None:
            continue
        outcome = "passed" if record.passed else "stopped" if record.interrupted else "failed" if record.passed is not None else ""
        outcome = outcome or ("running" if project.running(number) else "killed")
        took = f" in {seconds(max(0.0, record.ended - record.started))}" if record.ended else ""
        commit = f" at {record.commit[:12]}" if record.commit else ""
        again = f", again what failed in run {record.rerun_of}" if record.rerun_of else ""
        when = age(max(0.0, time.time() - record.started))
        yield f"{number}  {outcome}{took}  {visible(record.pipeline)}{commit}  {when}{again}"
