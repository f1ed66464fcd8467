"""`lamina inspect`."""

from __future__ import annotations

import json
import sys

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Show an image's config and manifest")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--format", "template", metavar="TEMPLATE", help="For example '{{.Config.Env}}'.")
@click.option("--json", "as_json", is_flag=True, help="The default; accepted for symmetry.")
@click.pass_obj
def command(settings: Settings, /, images: tuple[str, ...], template: str | None, as_json: bool) -> int:
    """Show images as JSON, with docker's field names.

    \b
    Examples:
      lamina inspect app:1
      lamina inspect -f '{{json .Config}}' app:1
    """
    from lamina.engine.images.finding import find_image
    from lamina.engine.images.finding import inspect as document_of

    with open_engine(settings) as engine:
        found = [document_of(engine.store, find_image(engine.store, name)) for name in images]
    if template:
        from lamina.cli.templates import render

        for document in found:
            print(render(template, document))
    else:
        json.dump(found, sys.stdout, indent=4, ensure_ascii=False)
        print()
    return 0
