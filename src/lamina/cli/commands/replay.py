"""`lamina replay`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli import inputs
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.words import seconds
from lamina.oci import typed

if TYPE_CHECKING:
    from lamina.engine.replay import Replay

_ROWS = 12  # of instructions and commits that are shown


@click.command(short_help="Say what the cache would have done over the last commits")
@click.argument("path", default=".")
@click.option("--commits", "count", type=click.IntRange(2, 10_000), default=50, show_default=True, metavar="N", help="How many commits.")
@click.option("--ref", default="HEAD", show_default=True, metavar="REF", help="The branch or commit to go back from (first parents).")
@click.option("-f", "--file", "file", metavar="FILE", help="The Dockerfile, a path in PATH (default: Dockerfile).")
@click.option("--target", metavar="STAGE", help="Build this stage (name or number) instead of the last.")
@click.option(
    "--build-arg", "args", multiple=True, metavar="NAME[=VALUE]", help="Give an ARG a value; {commit} in it stands for each commit's id."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(
    settings: Settings, /, path: str, count: int, ref: str, file: str | None, target: str | None, args: tuple[str, ...], as_json: bool
) -> int:
    """Compute the keys of the last N commits of the repository that PATH (the build's context) lies in, from git's objects alone.

    Says how often the cache would have had a step, what each instruction cost in seconds (from this machine's records, so build once before),
    and the change of order that would have saved most. Nothing is checked out, run or fetched.

    \b
    Examples:
      lamina replay --commits 50
      lamina replay --build-arg GIT_SHA={commit}
      lamina replay --target test --json services/api
    """
    from lamina.dockerfile.lower import Options
    from lamina.engine.engine import own_platform
    from lamina.engine.replay import replay, store_sources

    folder = inputs.context_directory(path)
    own = own_platform()
    given = inputs.build_args(args, settings.environment)
    options = Options(target=target or None, args=given, build_platform=own, platform=own)
    with open_engine(settings) as engine:
        result = replay(
            folder.absolute(),
            environment=settings.environment,
            commits=count,
            ref=ref,
            dockerfile=_inside(folder, file),
            options=options,
            sources=store_sources(engine.store),
        )
    if as_json:
        sys.stdout.write(_json(result) + "\n")
    else:
        _show(result)
    return 0


def _inside(folder: Path, file: str | None) -> str:
    """`--file` as a path in the context: as build takes it (from the working directory), or as it stands in the context."""
    if file is None:
        return "Dockerfile"
    for path in (Path(file), folder / file):
        if path.absolute().is_relative_to(folder.absolute()) and (path is not Path(file) or path.exists()):
            return path.absolute().relative_to(folder.absolute()).as_posix()
    raise inputs.BadOption(f"--file {file} lies outside of the context {folder}", hint="replay reads it from the commits")


def _json(result: Replay) -> str:
    import msgspec

    document = msgspec.to_builtins(result)
    document["hit_rate"] = result.hit_rate
    for row, step in zip(document["steps"], result.steps):
        row["lost"] = step.lost
    return msgspec.json.format(typed.encode_json(document), indent=2).decode()


def _show(result: Replay) -> None:
    bad = [row for row in result.commits if row.error]
    rate = result.hit_rate
    if rate is None:
        print(
            f"{len(result.commits)} commit{'s' if len(result.commits) != 1 else ''}, fewer than two that can be built: nothing to compare"
        )
    else:
        counted = len(result.commits) - len(bad) - 1
        commits = f"{counted} commit{'s' if counted != 1 else ''}"
        print(f"{commits} after the first: {result.hits} of {result.hits + result.misses} steps hit ({rate:.0%}), {_cost(result)} lost")
    if result.steps:
        print("\n   lost  misses  each     instruction")
        for row in result.steps[:_ROWS]:
            lost, each = ("?", "?") if row.seconds is None else (seconds(row.lost), seconds(row.seconds))
            print(f"{lost:>7}  {f'{row.misses}/{row.commits}':>6}  {each:<7}  [{row.stage}] {_line(row.text)}")
        if len(result.steps) > _ROWS:
            print(f"         and {len(result.steps) - _ROWS} more (--json has all)")
    costly = [row for row in result.commits[1:] if row.misses and not row.error]
    if costly:
        print("\ncommits that ran most")
        for commit in sorted(costly, key=lambda row: (-row.seconds, -row.misses))[:5]:
            what = f"{commit.misses} step{'s' if commit.misses != 1 else ''}" + (f", {seconds(commit.seconds)}" if commit.seconds else "")
            print(f"  {commit.id[:10]}  {what}, from {_line(commit.first_miss)}  ({_line(commit.subject)})")
    best = result.reordering
    if best is None:
        print("\nno other order that is tried would have saved a step")
    else:
        saved = f"{seconds(best.seconds)} and " if best.seconds else ""
        print(f"\nthis order of stage {best.stage} would have saved {saved}{best.runs} run{'s' if best.runs != 1 else ''} of a step:")
        for text in best.order:
            print(f"  {_line(text)}")
        if best.condition:
            print(f"  ({best.condition})")
    if result.takes_git:
        print(
            f"\n.git is not in .dockerignore: in a checkout that has it {_line(result.takes_git)} runs again at every commit, whatever is said above"
        )
    if result.unnamed_args is not None:
        runs = result.unnamed_args.runs
        cost = f"{seconds(result.unnamed_args.seconds)} and " if result.unnamed_args.seconds else ""
        print(f"\narguments in the keys of steps that do not name them cost {cost}{runs} run{'s' if runs != 1 else ''} of a step:")
        print("  declare each ARG right before the first step that names it, or build with --arg-scope=named")
    for row_ in bad[:3]:
        print(f"not counted: {row_.id[:10]} ({row_.error})", file=sys.stderr)
    if len(bad) > 3:
        print(f"not counted: {len(bad) - 3} more commits", file=sys.stderr)
    if result.steps and all(row.seconds is None for row in result.steps):
        print("no seconds: this store has no record of these steps; build once, then ask again", file=sys.stderr)


def _cost(result: Replay) -> str:
    unknown = any(row.misses and row.seconds is None for row in result.steps)
    if unknown and not result.seconds_lost:
        return "unknown seconds"
    return ("at least " if unknown and result.seconds_lost else "") + seconds(result.seconds_lost)


def _line(text: str) -> str:
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= 100 else plain[:99] + "…"
