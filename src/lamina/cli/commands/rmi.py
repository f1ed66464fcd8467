"""`lamina rmi`."""

from __future__ import annotations

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Remove images")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Remove an id that has several names.")
@click.pass_obj
def command(settings: Settings, /, images: tuple[str, ...], force: bool) -> int:
    """Remove a name, and with its last name the image. Cache records stay; `lamina cache prune` frees their layers.

    \b
    Examples:
      lamina rmi app:1
    """
    from lamina.engine.images.finding import find_image
    from lamina.oci.reference import Reference
    from lamina.store.gc import collect_garbage

    with open_engine(settings) as engine:
        store = engine.store
        for text in images:
            image = find_image(store, text)
            named = [name for name in image.names if name == _full(text)]
            done = store.images.untag(named[0]) if named else store.images.remove(image.id, force=force)
            for name in done.untagged:
                print(f"Untagged: {Reference.parse(name).familiar}")
            for identifier in done.deleted:
                print(f"Deleted: {identifier}")
        collect_garbage(store)
    return 0


def _full(text: str) -> str | None:
    from lamina.diagnostics.errors import LaminaError
    from lamina.oci.reference import Reference

    try:
        return str(Reference.parse(text).with_default_tag())
    except LaminaError:
        return None
