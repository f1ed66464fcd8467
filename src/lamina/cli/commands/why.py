"""`lamina why`."""

from __future__ import annotations

import json
import sys
import time

import click

from lamina.cli.progress import Paint
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.words import age, seconds


@click.command(short_help="Give the reason for each step of an earlier build")
@click.argument("build", metavar="[IMAGE|BUILD]", required=False)
@click.argument("step", metavar="[STEP]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the steps as JSON.")
@click.pass_obj
def command(settings: Settings, /, build: str | None, step: str | None, as_json: bool) -> int:
    """Say of each step of a build where its record came from, or what differed.

    IMAGE means its last build; without it, the last build of all. STEP is a stage, a line number or the beginning of an instruction.

    \b
    Examples:
      lamina why
      lamina why app:1
      lamina why app:1 "RUN make"
    """
    from lamina.engine.why import find_build, select, steps_of

    with open_engine(settings) as engine:
        log = find_build(engine.store, build)
    steps = steps_of(log)
    if step is not None:
        steps = select(steps, step)
    if as_json:
        json.dump({"build": log.id, "created": log.created, "error": log.error, "steps": steps}, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return 0
    paint = Paint(sys.stdout.isatty() and not settings.no_colour)
    print(
        f"build {log.id}, {age(max(0.0, time.time() - log.created))}, {log.dockerfile}" + (f", target {log.target}" if log.target else "")
    )
    styles = {"hit": "green", "ran": "yellow", "failed": "red"}
    for item in steps:
        if item.get("failed"):
            item["verdict"] = "failed"
        if item["verdict"] == "none" and step is None:
            continue
        word = paint(styles.get(item["verdict"], "dim"), f"{item['verdict'].upper():7}")
        spent = item["seconds"] if item["verdict"] in ("ran", "failed") else item["saved_seconds"]
        cost = f"  {'saved ' if item['verdict'] == 'hit' else ''}{seconds(spent)}" if spent >= 0.1 else ""
        print(f"{word} {item['stage_name'] or item['stage']}:{item['line']}  {item['text']}{cost}")
        print(paint("dim", f"        └ {item['reason']['message']}  [{item['reason']['code']}]"))
        if step is not None:
            for detail in item["reason"].get("details", []):
                print(paint("dim", f"          {detail}"))
    if log.error:
        print(paint("red", f"failed: {log.error}"))
    return 0
