"""`lamina images`."""

from __future__ import annotations

import json
import sys
import time

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.templates import render
from lamina.cli.words import age, short_id, size, table


@click.command(short_help="List images")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--digests", is_flag=True, help="Show manifest digests.")
@click.option("-a", "--all", "everything", is_flag=True, help="Images without a name too.")
@click.option("--format", "template", metavar="TEMPLATE", help="For example '{{.Repository}}:{{.Tag}}'.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="reference=PATTERN, label=NAME[=VALUE], dangling=true, before=IMAGE, since=IMAGE, until=AGE.",
)
@click.argument("name", required=False, metavar="[NAME[:TAG]]")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    quiet: bool,
    no_trunc: bool,
    digests: bool,
    everything: bool,
    template: str | None,
    filters: tuple[str, ...],
    name: str | None,
    as_json: bool,
) -> int:
    """List the images of the store, newest first; with NAME those of a repository or of one tag (`*` and `?` stand for any characters).

    \b
    Examples:
      lamina images
      lamina images -q
      lamina images app
      lamina images --filter label=team=web 'registry.example/*/app'
    """
    from lamina.cli.imagefilters import chosen, parse_filters
    from lamina.oci.reference import Reference

    wanted = parse_filters(filters, name)
    now = time.time()
    with open_engine(settings) as engine:
        found = chosen(engine.store, engine.store.images.all(), wanted, now)
    everything = everything or wanted.dangling is True
    rows = []
    for image in found:
        for name in image.names or (("<none>",) if everything else ()):
            repository, tag = "<none>", "<none>"
            if name != "<none>":
                reference = Reference.parse(name)
                repository, tag = Reference(reference.registry, reference.repository).familiar, reference.tag or "<none>"
            rows.append(
                {
                    "Repository": repository,
                    "Tag": tag,
                    "Digest": image.manifest,
                    "ID": image.id if no_trunc else short_id(image.id),
                    "CreatedSince": age(max(0.0, now - image.created)),
                    "Size": size(image.size),
                    "Platform": image.platform,
                }
            )
    if quiet:
        for identifier in dict.fromkeys(row["ID"] for row in rows):
            print(identifier)
    elif as_json:
        json.dump(rows, sys.stdout, indent=2)
        print()
    elif template:
        for row in rows:
            print(render(template, row))
    else:
        several = len({row["Platform"] for row in rows}) > 1
        columns = ["Repository", "Tag", *(["Digest"] if digests else []), "ID", *(["Platform"] if several else []), "CreatedSince", "Size"]
        titles = {"ID": "IMAGE ID", "CreatedSince": "CREATED"}
        print(table([titles.get(c, c.upper()) for c in columns], [[row[c] for c in columns] for row in rows]))
    return 0
