"""`lamina plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lamina.cli.commands.build_options import request_from, shared_options
from lamina.cli.commands.declaring import WithCacheMounts
from lamina.cli.progress import Paint
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.words import seconds, size

WORK_TO_DO = 3


@click.command(cls=WithCacheMounts, short_help="Say what a build would do and why; nothing runs")
@click.argument("path", default=".")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@shared_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    path: str,
    as_json: bool,
    quiet: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
    **options: Any,
) -> int:
    """Say for each step whether the cache has it, why, and what it would cost: seconds, and bytes to fetch of bases and shared caches.

    Executes nothing, fetches no layer.

    Exit code: 0 when every step is cached, 3 when there is work to do.

    \b
    Examples:
      lamina plan .
      lamina plan --build-arg V=2 --json .
      lamina plan --cache-from s3://ci/cache .
    """
    request = request_from(settings, path, options)
    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        plan = engine.plan(request)
    if as_json:
        from lamina.engine.reporting import plan_bytes

        sys.stdout.write(plan_bytes(plan).decode() + "\n")
    elif not quiet:
        from lamina.engine.why import place_of
        from lamina.oci.reference import Reference

        paint = Paint(sys.stdout.isatty() and not settings.no_colour)
        styles = {"hit": "green", "miss": "yellow", "unknown": "cyan"}
        for image in plan.images:
            what = f"{size(image.fetch_bytes)} to fetch" if image.fetch_bytes else "nothing to fetch"
            print(
                f"{paint('dim', 'BASE   ')} {Reference.parse(image.reference).familiar if '://' not in image.reference else image.reference}  {what}"
            )
        for step in plan.steps:
            if step.verdict == "none":
                continue
            cost = f"  ~{seconds(step.saved)}" if step.saved >= 0.1 and step.verdict != "hit" else ""
            fetch = f"  fetches {size(step.fetch_bytes)}" if step.fetch_bytes else ""
            word = paint(styles.get(step.verdict, "dim"), f"{step.verdict.upper():7}")
            place = place_of(step.stage, step.stage_name, step.index, own=True)
            print(f"{word} {place}  {step.text}  (line {step.line}){cost}{fetch}")
            print(paint("dim", f"        └ {step.reason.message}"))
        for warning in plan.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if plan.complete:
            print("all cached: a build would run nothing" + (f", {size(plan.fetch_bytes)} to fetch" if plan.fetch_bytes else ""))
        else:
            work = sum(1 for step in plan.steps if step.verdict in ("miss", "unknown"))
            print(
                f"{work} step{'s' if work != 1 else ''} to do, about {seconds(plan.seconds_at_stake)}"
                + (f", {size(plan.fetch_bytes)} to fetch" if plan.fetch_bytes else "")
            )
    return 0 if plan.complete else WORK_TO_DO
