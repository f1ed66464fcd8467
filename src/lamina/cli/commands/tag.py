"""`lamina tag`."""

from __future__ import annotations

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Give an image another name")
@click.argument("source")
@click.argument("name")
@click.pass_obj
def command(settings: Settings, /, source: str, name: str) -> int:
    """Give the image SOURCE the further name NAME.

    \b
    Examples:
      lamina tag app:1 registry.example/team/app:1
    """
    from lamina.engine.images.finding import find_image
    from lamina.oci.reference import Reference

    full = str(Reference.parse(name).with_default_tag())
    with open_engine(settings) as engine:
        engine.store.images.tag(find_image(engine.store, source).id, (full,))
    return 0
