"""`lamina load`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Read images from an archive")
@click.option("-i", "--input", "source", type=click.Path(path_type=Path), metavar="FILE", help="The archive (default: standard input).")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@click.pass_obj
def command(settings: Settings, /, source: Path | None, quiet: bool) -> int:
    """Read the images of an archive that docker, podman, skopeo or lamina wrote, or of an OCI layout.

    \b
    Examples:
      lamina load -i app.tar
      docker save app:1 | lamina load
    """
    from lamina.engine.engine import own_platform
    from lamina.engine.images.importing import load
    from lamina.oci.reference import Reference

    with open_engine(settings) as engine:
        images = load(engine.store, source if source is not None else sys.stdin.buffer, own_platform())
    if not quiet:
        for image in images:
            for name in image.names:
                print(f"Loaded image: {Reference.parse(name).familiar}")
            if not image.names:
                print(f"Loaded image ID: {image.id}")
    return 0
