"""`lamina history`."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.templates import render
from lamina.cli.words import age, short_id, shorten, size, table


@click.command(short_help="Show the steps that made an image")
@click.argument("image")
@click.option("--no-trunc", is_flag=True, help="Whole ids and texts.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--format", "template", metavar="TEMPLATE", help="For example '{{.CreatedBy}}'.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def command(settings: Settings, /, image: str, no_trunc: bool, quiet: bool, template: str | None, as_json: bool) -> int:
    """Show the steps that made an image, newest first.

    \b
    Examples:
      lamina history app:1
      lamina history --no-trunc --format '{{.CreatedBy}}' app:1
    """
    from lamina.engine.images.finding import find_image
    from lamina.engine.images.finding import history as history_of

    with open_engine(settings) as engine:
        found = find_image(engine.store, image)
        entries = history_of(engine.store, found)
    rows = []
    for number, (entry, count) in enumerate(entries):
        identifier = (found.id if no_trunc else short_id(found.id)) if number == 0 else "<missing>"
        created = age(max(0.0, time.time() - datetime.fromisoformat(entry.created).timestamp())) if entry.created else ""
        text = entry.created_by if no_trunc else shorten(" ".join(entry.created_by.split()), 45)
        rows.append({"ID": identifier, "CreatedSince": created, "CreatedBy": text, "Size": size(count), "Comment": entry.comment})
    if quiet:
        print("\n".join(row["ID"] for row in rows))
    elif as_json:
        json.dump(rows, sys.stdout, indent=2)
        print()
    elif template:
        for row in rows:
            print(render(template, row))
    else:
        print(table(("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"), [tuple(row.values()) for row in rows]))
    return 0
