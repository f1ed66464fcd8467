"""`lamina import`."""

from __future__ import annotations

import contextlib

import click

from lamina.cli.inputs import BadOption, stdin
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Make an image from a root file system")
@click.argument("file")
@click.argument("name", required=False)
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="INSTRUCTION", help="A Dockerfile instruction for the config, for example 'CMD sh'."
)
@click.option("-m", "--message", default="", help="A comment for the history.")
@click.pass_obj
def command(settings: Settings, /, file: str, name: str | None, changes: tuple[str, ...], message: str) -> int:
    """Make an image of one layer from the tar of a root file system (plain or compressed with gzip, bzip2, xz or zstd; - is standard input).

    \b
    Examples:
      lamina import rootfs.tar base:1
      debootstrap … && tar -C rootfs -c . | lamina import - debian:12
      lamina import -c 'ENV PATH=/bin' -c 'CMD ["sh"]' rootfs.tar base:1
    """
    from lamina.engine.engine import own_platform
    from lamina.engine.images.changes import changed_config
    from lamina.engine.images.importing import import_rootfs
    from lamina.oci.reference import Reference

    names = [str(Reference.parse(name).with_default_tag())] if name else []
    config = changed_config(own_platform(), changes)
    try:
        source = contextlib.nullcontext(stdin()) if file == "-" else open(file, "rb")  # noqa: SIM115  # closed by the with below
    except OSError as error:
        raise BadOption(f"cannot read {file}: {error.strerror}", exit_code=66 if isinstance(error, FileNotFoundError) else None) from error
    with source as stream, open_engine(settings) as engine:
        print(import_rootfs(engine.store, stream, config, names, label=file, comment=message).id)
    return 0
