"""`lamina import`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Make an image from a root file system")
@click.argument("file")
@click.argument("name", required=False)
@click.pass_obj
def command(settings: Settings, /, file: str, name: str | None) -> int:
    """Make an image of one layer from a root file system's tar (- is standard input).

    \b
    Examples:
      lamina import rootfs.tar base:1
    """
    from lamina.engine.engine import own_platform
    from lamina.engine.images.importing import import_rootfs
    from lamina.oci.config import ContainerConfig, ImageConfig
    from lamina.oci.reference import Reference

    names = [str(Reference.parse(name).with_default_tag())] if name else []
    own = own_platform()
    config = ImageConfig(os=own.os, architecture=own.architecture, variant=own.variant, config=ContainerConfig())
    with open_engine(settings) as engine:
        stream = sys.stdin.buffer if file == "-" else Path(file).open("rb")
        with stream:
            print(import_rootfs(engine.store, stream, config, names, label=file).id)
    return 0
