"""`lamina pipeline lint|fix|plan`; `run`, `logs` and `caches` have files of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli import inputs
from lamina.cli.commands.pipeline_caches import caches
from lamina.cli.commands.pipeline_logs import logs
from lamina.cli.commands.pipeline_run import run
from lamina.cli.commands.pipeline_step_job import step_job
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.pipelines.choose import Start
    from lamina.pipelines.variables import Facts, Variable
    from lamina.pipelines.worktree import Worktree

FILE = "bitbucket-pipelines.yml"


@click.group(short_help="Run, plan and check bitbucket-pipelines.yml", no_args_is_help=True)
def command() -> None:
    """Work with the bitbucket-pipelines.yml of a repository.

    \b
    Examples:
      lamina pipeline lint
      lamina pipeline plan --branch main
      lamina pipeline run
    """


command.add_command(run)
command.add_command(caches)
command.add_command(logs)
command.add_command(step_job)


@command.command("lint")
@click.argument("path", default=".")
@click.option("-f", "--file", "file", metavar="FILE", help=f"The file (default: PATH/{FILE}; - is standard input).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Print the findings as SARIF 2.1.0.")
@click.pass_obj
def lint(settings: Settings, /, path: str, file: str | None, as_json: bool, as_sarif: bool) -> int:
    """Find what Bitbucket refuses, and what it takes and was not meant. Exit code 1 when there is an error.

    \b
    Examples:
      lamina pipeline lint
      lamina pipeline lint --sarif > pipelines.sarif
    """
    from lamina.diagnostics.render import as_json as document_of
    from lamina.diagnostics.render import render
    from lamina.pipelines.lint import lint as findings

    name, text = read_file(path, file)
    found = findings(text, name)
    if as_sarif:
        from lamina.diagnostics.sarif import sarif
        from lamina.version import __version__

        json.dump(sarif(found, version=__version__), sys.stdout, indent=2, ensure_ascii=False)
        print()
    elif as_json:
        json.dump([document_of(item) for item in found], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for item in found:
            print(render(item, colour=sys.stdout.isatty() and not settings.no_colour))
        print(f"{len(found)} finding{'s' if len(found) != 1 else ''}" if found else f"{name}: nothing to complain of", file=sys.stderr)
    return 1 if any(item.severity == "error" for item in found) else 0


@command.command("fix")
@click.argument("path", default=".")
@click.option("-f", "--file", "file", metavar="FILE", help=f"The file (default: PATH/{FILE}; - is standard input).")
@click.option("-w", "--write", is_flag=True, help="Write the file in place of showing the difference.")
@click.pass_obj
def fix(settings: Settings, /, path: str, file: str | None, write: bool) -> int:
    """Rewrite a file whose parallel steps fight over the docker cache into one that keeps every step's images, on Bitbucket itself.

    Prints a unified diff, which `git apply` and `patch -p1` take. Comments are kept.

    \b
    Examples:
      lamina pipeline fix
      lamina pipeline fix | git apply
    """
    from lamina.diagnostics.render import render_all
    from lamina.pipelines.fix import fix as fixed

    name, text = read_file(path, file)
    result = fixed(text, name.removeprefix("./"))
    if result.notes:
        print(render_all(result.notes, colour=sys.stderr.isatty() and not settings.no_colour), file=sys.stderr)
    if not result.diff:
        print(f"{name}: no parallel steps share the docker cache", file=sys.stderr)
    elif write and name != "<stdin>":
        replace_file(Path(name), result.text)
        print(f"{name}: rewritten", file=sys.stderr)
    else:
        sys.stdout.write(result.text if write else result.diff)
    return 0


@command.command("plan")
@click.argument("path", default=".")
@click.option("-f", "--file", "file", metavar="FILE", help=f"The file (default: PATH/{FILE}; - is standard input).")
@click.option("--branch", metavar="NAME", help="As a push to this branch (default: the branch that is checked out).")
@click.option("--tag", metavar="NAME", help="As a push of this tag.")
@click.option("--pull-request", "pull_request", metavar="FROM[:TO]", help="As a pull request of a branch to another one.")
@click.option("--custom", metavar="NAME", help="A pipeline of pipelines.custom.")
@click.option("--var", "values", multiple=True, metavar="NAME=VALUE", help="A variable of the run.")
@click.option(
    "--deployment-var", "deployment_values", multiple=True, metavar="ENV:NAME=VALUE", help="A variable of a deployment environment."
)
@click.option("--since", metavar="REVISION", help="Changed files are those since this revision (default: those of the last commit).")
@click.option("--bitbucket-caches", "--parity", "bitbucket_caches", is_flag=True, help="Look for caches as `run --bitbucket-caches` does.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.pass_obj
def plan(
    settings: Settings,
    /,
    path: str,
    file: str | None,
    branch: str | None,
    tag: str | None,
    pull_request: str | None,
    custom: str | None,
    values: tuple[str, ...],
    deployment_values: tuple[str, ...],
    since: str | None,
    bitbucket_caches: bool,
    as_json: bool,
) -> int:
    """Say what would run: steps, images, services, caches (hit or miss, and why), artifacts, memory. Nothing starts.

    Exit code: 69 when something of it cannot run on this machine.

    \b
    Examples:
      lamina pipeline plan
      lamina pipeline plan --custom nightly --var DAYS=3 --json
    """
    from lamina.diagnostics.render import render_all
    from lamina.pipelines import show, worktree
    from lamina.pipelines.lint import warnings
    from lamina.pipelines.load import load
    from lamina.pipelines.plan import Request
    from lamina.pipelines.plan import plan as planned

    name, text = read_file(path, file)
    document = load(text, name)
    tree = worktree.inspect(Path(path))
    start = start_of(tree, branch, tag, pull_request, custom)
    request = Request(
        start=start,
        facts=facts_of(tree, start),
        variables=deployment_variables(deployment_values),
        answers=inputs.pairs(values, "--var"),
        changed=worktree.changed_files(tree.root, since=since),
    )
    made = planned(document, request, lambda wanted: read_below(tree.root, wanted))
    from lamina.cli.commands.pipeline_caches import state_of

    states = state_of(settings, tree, bitbucket_caches=bitbucket_caches)
    if as_json:
        json.dump(show.document_of(made, states), sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for line in show.lines(made, states):
            print(line)
        notes = (*warnings(document), *made.problems)
        if notes:
            print(render_all(notes, colour=sys.stderr.isatty() and not settings.no_colour), file=sys.stderr)
    return 69 if any(item.severity == "error" for item in made.problems) else 0


def read_file(path: str, file: str | None) -> tuple[str, str]:
    """The name that users know the file by, and its text."""
    if file == "-":
        return "<stdin>", _text(inputs.stdin().read(), "<stdin>")
    place = Path(file) if file is not None else Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        return str(place), _text(place.read_bytes(), str(place))
    except FileNotFoundError:
        raise inputs.BadOption(f"there is no {place}", hint="name the file with -f", exit_code=66) from None
    except IsADirectoryError:
        raise inputs.BadOption(f"{place} is a folder, not a pipelines file") from None


def replace_file(place: Path, text: str) -> None:
    """The whole new text or the old one, with the old mode."""
    place = place.resolve()
    beside = place.with_name(f".{place.name}.new")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        beside.chmod(place.stat().st_mode & 0o7777)
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise inputs.BadOption(f"{name}:{line}: the file is not UTF-8") from None


def read_below(root: Path, wanted: str) -> str | None:
    """A file of the repository, never one that a link takes out of it."""
    place = (root / wanted).resolve()
    if not place.is_relative_to(root.resolve()) or not place.is_file():
        return None
    return _text(place.read_bytes(), wanted)


def start_of(tree: Worktree, branch: str | None, tag: str | None, pull_request: str | None, custom: str | None) -> Start:
    """What the options say happened; without any, a push of the branch that is checked out."""
    from lamina.pipelines.choose import Start

    given = [option for option, value in (("--branch", branch), ("--tag", tag), ("--pull-request", pull_request)) if value is not None]
    if len(given) > 1 or (custom is not None and given and given != ["--branch"]):
        raise inputs.BadOption(f"{' and '.join([*given, *(['--custom'] if custom is not None else [])])} exclude each other")
    if custom is not None:
        return Start("custom", custom, branch=branch or tree.branch)
    if tag is not None:
        return Start("tag", tag)
    if pull_request is not None:
        source, _, destination = pull_request.partition(":")
        return Start("pull-request", source or tree.branch, destination or "main")
    if branch is None and not tree.branch:
        raise inputs.BadOption("no branch is checked out", hint="name what happened: --branch, --tag, --pull-request or --custom")
    return Start("branch", branch or tree.branch, message=tree.message if branch in (None, tree.branch) else "")


def facts_of(tree: Worktree, start: Start) -> Facts:
    """Bitbucket's own variables, as far as git knows them. What only Bitbucket knows has a value that cannot be one of Bitbucket's: scripts with
    `set -u` go on."""
    from lamina.pipelines.variables import Facts, stable_uuid

    workspace = tree.workspace or "local"
    http = tree.origin.startswith("http")
    return Facts(
        commit=tree.commit,
        workspace=workspace,
        slug=tree.slug,
        repository_uuid=stable_uuid(f"repository {workspace}/{tree.slug}"),
        owner_uuid=stable_uuid(f"owner {workspace}"),
        project_key="LOCAL",
        project_uuid=stable_uuid("project LOCAL"),
        http_origin=tree.origin if http else f"http://bitbucket.org/{workspace}/{tree.slug}",
        ssh_origin=tree.origin if tree.origin and not http else f"git@bitbucket.org:{workspace}/{tree.slug}.git",
        branch=start.branch if start.kind == "custom" else "" if start.kind == "tag" else start.name,
        tag=start.name if start.kind == "tag" else "",
        pull_request="1" if start.kind == "pull-request" else "",
        destination=start.destination,
    )


def deployment_variables(values: tuple[str, ...]) -> tuple[Variable, ...]:
    """ENV:NAME=VALUE items."""
    from lamina.pipelines.variables import Variable

    found = []
    for value in values:
        environment, colon, rest = value.partition(":")
        name, equals, content = rest.partition("=")
        if not colon or not equals or not environment or not name:
            raise inputs.BadOption(f"--deployment-var {value!r} is not ENV:NAME=VALUE")
        found.append(Variable(name, content, "deployment", environment=environment))
    return tuple(found)
