"""`lamina pipeline run`."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli import inputs
from lamina.cli.commands.registry_options import registry_options
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.pipelines.plan import Plan, PlannedStep
    from lamina.pipelines.run.history import RunRecord
    from lamina.pipelines.worktree import Worktree

FILE = "bitbucket-pipelines.yml"
_ON_CLUSTERS = 4096  # steps at once: the cluster says how many


@click.command("run", short_help="Run a pipeline on this machine")
@click.argument("path", default=".")
@click.option("-f", "--file", "file", metavar="FILE", help=f"The file (default: PATH/{FILE}; - is standard input).")
@click.option("--branch", metavar="NAME", help="As a push to this branch (default: the branch that is checked out).")
@click.option("--tag", metavar="NAME", help="As a push of this tag.")
@click.option(
    "--pull-request", "pull_request", metavar="FROM[:TO]", help="As a pull request of a branch to another one: their merge is built."
)
@click.option("--custom", metavar="NAME", help="A pipeline of pipelines.custom.")
@click.option("--var", "values", multiple=True, metavar="NAME=VALUE", help="A variable of the run.")
@click.option(
    "--secret-var",
    "secrets",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A secured variable (alone: the environment's value); masked in all output.",
)
@click.option(
    "--deployment-var", "deployment_values", multiple=True, metavar="ENV:NAME=VALUE", help="A variable of a deployment environment."
)
@click.option("--since", metavar="REVISION", help="Changed files are those since this revision (default: those of the last commit).")
@click.option("--step", "only", multiple=True, metavar="STEP", help="Only this step, by number or name; repeatable.")
@click.option("--from-step", "first", metavar="STEP", help="This step and all later ones.")
@click.option("--rerun-failed", is_flag=True, help="Only what did not pass in the last run, with the artifacts of what did.")
@click.option("--clean", is_flag=True, help="The commit as it is, without the work tree's changes.")
@click.option("-y", "--yes", is_flag=True, help="Start manual steps without asking.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1), metavar="N", help="Steps that run at once (default: 16; on a cluster as many as it takes)."
)
@click.option(
    "--image-map",
    "image_map",
    multiple=True,
    metavar="OLD=NEW",
    help="Another image in place of one; NEW may be `host`, this machine's own programs.",
)
@click.option(
    "--network",
    type=click.Choice(["own", "host"]),
    default="own",
    help="Steps with services: a network of their own (default), or the machine's.",
)
@click.option("--bitbucket-caches", "--parity", "bitbucket_caches", is_flag=True, help="Caches as on Bitbucket, collisions included.")
@click.option("--save-on-failure", is_flag=True, help="Steps that fail save their caches, too (Bitbucket never does).")
@click.option(
    "--docker-cli",
    "docker_command",
    default="auto",
    metavar="FILE",
    help="What steps with a docker service call as docker: a static program, `auto` (this machine's, else lamina's own) or `own`.",
)
@click.option(
    "--engine",
    metavar="CLUSTER",
    help="Run the steps on a cluster: dask://SCHEDULER:PORT, ray://HEAD:PORT or processes://N (workers of this machine).",
)
@click.option(
    "--shared",
    metavar="PLACE",
    envvar="LAMINA_SHARED",
    help="With --engine: the shared cache through which clone, artifacts and caches travel, in the words of --cache-to.",
)
@click.option("--report", "report", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the result as JSON.")
@click.option("--junit", "junit_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it as JUnit's XML.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "tty"]),
    default="auto",
    help="plain: every line behind its step's name; tty: parallel steps in a live view (auto: on a terminal).",
)
@registry_options
@click.pass_obj
def run(
    settings: Settings,
    /,
    path: str,
    file: str | None,
    branch: str | None,
    tag: str | None,
    pull_request: str | None,
    custom: str | None,
    values: tuple[str, ...],
    secrets: tuple[str, ...],
    deployment_values: tuple[str, ...],
    since: str | None,
    only: tuple[str, ...],
    first: str | None,
    rerun_failed: bool,
    clean: bool,
    yes: bool,
    jobs: int | None,
    image_map: tuple[str, ...],
    network: str,
    bitbucket_caches: bool,
    save_on_failure: bool,
    docker_command: str,
    engine: str | None,
    shared: str | None,
    report: Path | None,
    junit_file: Path | None,
    progress: str,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Run the pipeline that a push of this branch would start, with the work tree's changes. Steps run in sandboxes over their images.

    Exit code: 0 when all passed, 1 when a step failed, 69 when something of it cannot run on this machine, 130 after Ctrl-C.

    \b
    Examples:
      lamina pipeline run
      lamina pipeline run --pull-request feature/login:main
      lamina pipeline run --custom nightly --var DAYS=3 --yes
      lamina pipeline run --rerun-failed
      lamina pipeline run --image-map atlassian/default-image:3=host
      lamina pipeline run --engine dask://scheduler:8786 --shared s3://ci/cache
    """
    from lamina.cli.commands.pipeline import deployment_variables, facts_of, read_below, read_file, start_of
    from lamina.diagnostics.render import render_all
    from lamina.pipelines import worktree
    from lamina.pipelines.lint import warnings
    from lamina.pipelines.load import load
    from lamina.pipelines.plan import Request
    from lamina.pipelines.plan import plan as planned
    from lamina.pipelines.run.history import Project
    from lamina.pipelines.variables import Variable

    name, text = read_file(path, file)
    document = load(text, name)
    tree = worktree.inspect(Path(path) if Path(path).is_dir() else Path(path).parent)
    start = start_of(tree, branch, tag, pull_request, custom)
    project = Project(settings.root, project_identity(tree))
    number = max(project.numbers(), default=0) + 1
    facts = facts_of(tree, start)
    import msgspec

    request = Request(
        start=start,
        facts=msgspec.structs.replace(facts, build_number=number, pipeline_uuid="{" + str(uuid.uuid4()) + "}"),
        variables=(
            *deployment_variables(deployment_values),
            *(Variable(key, value, "pipeline", secured=True) for key, value in secret_values(secrets, settings.environment).items()),
        ),
        answers=inputs.pairs(values, "--var"),
        changed=worktree.changed_files(tree.root, since=since),
    )
    made = planned(document, request, lambda wanted: read_below(tree.root, wanted))
    notes = (*warnings(document), *made.problems)
    if notes:
        print(render_all(notes, colour=sys.stderr.isatty() and not settings.no_colour), file=sys.stderr)
    made.must_run_here()
    if made.pipeline is None:
        print(f"nothing starts: {made.reason}")
        return 0
    before = project.last() if rerun_failed else None
    numbers = selected(made, only, first, before)
    from lamina.cli.pipelinelive import terminal_for
    from lamina.cli.pipelinework import Work, carry_out, public

    width = shutil.get_terminal_size((100, 24)).columns
    live = progress == "tty" or (progress == "auto" and sys.stdout.isatty())
    terminal = terminal_for(sys.stdout, live=live, colour=sys.stdout.isatty() and not settings.no_colour, width=width)
    work = Work(
        plan=made,
        project=project,
        tree=tree,
        ref=tag or branch or (start.name if start.kind == "pull-request" else ""),
        merge=start.destination if start.kind == "pull-request" else "",
        uncommitted=not clean and not tag and pull_request is None and branch in (None, tree.branch),
        numbers=numbers,
        before=before,
        yes=yes,
        jobs=jobs or (_ON_CLUSTERS if engine else 16),
        image_map=inputs.pairs(image_map, "--image-map"),
        own_network=network == "own",
        save_on_failure=save_on_failure,
        bitbucket_caches=bitbucket_caches,
        docker_cli=None if engine else docker_cli(docker_command),
        terminal=terminal,
        width=min(width, 120),
        blocks=(sys.stdout.encoding or "").lower().startswith("utf"),
        changed=request.changed,
        registry_ca=registry_ca,
        insecure_registries=insecure_registries,
        engine=engine or "",
        shared=shared or "",
        docker_choice=docker_command,
    )
    try:
        record = carry_out(work, settings)
    finally:
        terminal.close()
    if junit_file is not None:
        junit_file.write_bytes((project.place(record.number) / "junit.xml").read_bytes())
    if report is not None:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(public(record, made))) + b"\n")
    return 130 if record.interrupted else 0 if record.passed else 1


def project_identity(tree: Worktree) -> str:
    """Checkouts of one origin share caches; without an origin each folder is a project."""
    return tree.origin or str(tree.root.resolve())


def secret_values(values: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not name or (not equals and name not in environment):
            raise inputs.BadOption(f"--secret-var {name}: the environment has no {name}" if name else "--secret-var needs a name")
        found[name] = rest if equals else environment[name]
    return found


def selected(made: Plan, only: tuple[str, ...], first: str | None, before: RunRecord | None) -> frozenset[int] | None:
    """Numbers of the steps that run; None for all."""
    from lamina.pipelines.run.runner import every_step

    given = [option for option, value in (("--step", only), ("--from-step", first), ("--rerun-failed", before)) if value]
    if len(given) > 1:
        raise inputs.BadOption(f"{' and '.join(given)} exclude each other")
    steps = every_step(made)
    if only:
        return frozenset(number for text in only for number in _find(steps, text, "--step"))
    if first is not None:
        begin = min(_find(steps, first, "--from-step"))
        return frozenset(step.number for step in steps if step.number >= begin)
    if before is not None:
        from lamina.pipelines.show import visible

        pipeline = "" if made.pipeline is None else f"{made.pipeline.kind} {made.pipeline.name}".strip()
        if pipeline != before.pipeline:
            raise inputs.BadOption(
                f"the last run was of the pipeline {before.pipeline!r}, this is {pipeline!r}", hint="give the options of that run too"
            )
        good = {(step.number, step.name) for step in before.steps if step.status in ("passed", "kept", "skipped")}
        return frozenset(step.number for step in steps if (step.number, visible(step.name)) not in good)
    return None


def _find(steps: list[PlannedStep], text: str, option: str) -> list[int]:
    found = [step.number for step in steps if step.name == text] or [step.number for step in steps if str(step.number) == text]
    if not found:
        from lamina.diagnostics.errors import nearest
        from lamina.pipelines.show import visible

        near = nearest(text, [step.name for step in steps])
        names = ", ".join(f"{step.number}. {visible(step.name)}" for step in steps[:10])
        raise inputs.BadOption(f"{option} {text!r} is no step", hint=f"did you mean {near!r}?" if near else f"steps: {names}")
    return found


def docker_cli(wanted: str = "auto") -> Path | None:
    """The docker CLI that steps get: one file that runs in any root. None: lamina's own."""
    if wanted == "own":
        return None
    found = shutil.which("docker") if wanted == "auto" else wanted
    if found is None:
        return None
    place = Path(os.path.realpath(found))
    try:
        with open(place, "rb") as file:
            head = file.read(4096)
    except OSError:
        head = b""
    # A dynamic program names its loader; a static one, as docker ships it, does not.
    if head[:4] == b"\x7fELF" and b"/ld-linux" not in head and b"/ld-musl" not in head:
        return place
    if wanted != "auto":
        raise inputs.BadOption(f"--docker-cli {wanted}: it is no static program, which alone runs in any image")
    return None
