"""`lamina load`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lamina.cli.inputs import stdin
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Read images from an archive")
@click.option("-i", "--input", "source", type=click.Path(path_type=Path), metavar="FILE", help="The archive (default: standard input).")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@click.option("--images-only", is_flag=True, help="Leave the build cache that came with the images.")
@click.pass_obj
def command(settings: Settings, /, source: Path | None, quiet: bool, images_only: bool) -> int:
    """Read the images of an archive that docker, podman, skopeo or lamina wrote, or of an OCI layout.

    \b
    Examples:
      lamina load -i app.tar
      docker save app:1 | lamina load
    """
    from lamina.engine.engine import own_platform
    from lamina.engine.images.importing import load_with_cache
    from lamina.oci.reference import Reference

    with open_engine(settings) as engine:
        records = None if images_only else engine.records
        found = load_with_cache(engine.store, source if source is not None else stdin(), own_platform(), records)
    for wrong in found.wrong:
        print(f"warning: a cached step was not taken over: {wrong}", file=sys.stderr)
    if not quiet:
        for image in found.images:
            for name in image.names:
                print(f"Loaded image: {Reference.parse(name).familiar}")
            if not image.names:
                print(f"Loaded image ID: {image.id}")
        if found.records:
            print(f"Loaded cache: {found.records} step{'' if found.records == 1 else 's'}")
    return 0
