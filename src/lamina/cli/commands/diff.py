"""`lamina diff`."""

from __future__ import annotations

import json
import sys

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Compare two builds step by step")
@click.argument("before", metavar="BUILD")
@click.argument("after", metavar="BUILD")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.pass_obj
def command(settings: Settings, /, before: str, after: str, as_json: bool) -> int:
    """Say which steps of two builds differ. BUILD is `last`, `previous`, an image, or the beginning of a build's id.

    Exit code: 0 when nothing differs, 1 otherwise.

    \b
    Examples:
      lamina diff previous last
      lamina diff app:1 app:2
    """
    from lamina.engine.why import compare, find_build, place_of, steps_of

    with open_engine(settings) as engine:
        logs = [find_build(engine.store, text) for text in (before, after)]
    changes = compare(*[steps_of(log) for log in logs])
    if as_json:
        json.dump([{"before": c.before, "after": c.after} for c in changes], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for change in changes:
            step = change.after or change.before
            assert step is not None
            sign = "+" if change.before is None else "-" if change.after is None else "~"
            place = place_of(step["stage"], step["stage_name"], step.get("index", 0), own=step["verdict"] != "none")
            print(f"{sign} {place}  {step['text']}  (line {step['line']})")
            if change.after is not None:
                print(f"    └ {change.after['reason']['message']}")
        if not changes:
            print("no step differs")
    return 1 if changes else 0
