"""`lamina save`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lamina.cli.inputs import BadOption
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Write images to an archive")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The archive (default: standard output).")
@click.pass_obj
def command(settings: Settings, /, images: tuple[str, ...], output: Path | None) -> int:
    """Write images to one archive that docker, podman, skopeo and lamina load.

    Images that are named by id take the cache of their builds along: after `lamina load` elsewhere the next build finds its steps.

    \b
    Examples:
      lamina save -o app.tar app:1
      lamina save -o cache.tar $(lamina images -q)
      lamina save app:1 | docker load
    """
    from lamina.engine.exporters.export import save
    from lamina.engine.exporters.place import replacing
    from lamina.engine.images.finding import find_image
    from lamina.oci.reference import Reference

    if output is None and sys.stdout.isatty():
        raise BadOption("the archive would go to this terminal", hint="name a file with -o, or send it on with >")
    with open_engine(settings) as engine:
        chosen = []
        with_cache = False
        for text in images:
            image = find_image(engine.store, text)
            names = [name for name in image.names if Reference.parse(name).familiar == text or name == text or name == f"{text}:latest"]
            by_id = not names and (image.id.startswith(text) or image.id[7:].startswith(text))
            with_cache = with_cache or by_id
            chosen.append((image, [] if by_id and not image.names else names or list(image.names)))
        records = engine.records if with_cache else None
        if output is None:
            save(engine.store, chosen, sys.stdout.buffer, records)
        else:
            with replacing(output) as out:
                save(engine.store, chosen, out, records)
    return 0
