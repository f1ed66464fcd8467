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

    IMAGE means its last build; without it, the last build of all. STEP is what --refresh takes: a stage (name or number), STAGE:N as in
    [stage N/M], or the beginning of an instruction; or 'line N'. A STEP alone is one of the last build, where no image has that name.

    \b
    Examples:
      lamina why
      lamina why app:1
      lamina why app:1 "RUN make"
      lamina why app:1 deps:3
    """
    from lamina.engine.why import find_steps, place_of, steps_of

    with open_engine(settings) as engine:
        log, steps = find_steps(engine.store, build, step)
    whole = step is None and len(steps) == len(steps_of(log))
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
        if item["verdict"] == "none" and whole:
            continue
        word = paint(styles.get(item["verdict"], "dim"), f"{item['verdict'].upper():7}")
        spent = item["seconds"] if item["verdict"] in ("ran", "failed") else item["saved_seconds"]
        cost = f"  {'saved ' if item['verdict'] == 'hit' else ''}{seconds(spent)}" if spent >= 0.1 else ""
        place = place_of(item["stage"], item["stage_name"], item.get("index", 0), own=item["verdict"] != "none")
        print(f"{word} {place}  {item['text']}  (line {item['line']}){cost}")
        if item["verdict"] == "failed" and log.error:
            print(paint("dim", f"        └ {log.error.splitlines()[0]}"))
            continue
        print(paint("dim", f"        └ {item['reason']['message']}  [{item['reason']['code']}]"))
        if not whole:
            for detail in item["reason"].get("details", []):
                print(paint("dim", f"          {detail}"))
    if log.error and not any(item["verdict"] == "failed" for item in steps):
        print(paint("red", f"failed: {log.error.splitlines()[0]}"))
    return 0
