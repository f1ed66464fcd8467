"""`lamina pull`."""

from __future__ import annotations

from pathlib import Path

import click

from lamina.cli.commands.registry_options import registry_options
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Fetch images from registries")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--platform", metavar="OS/ARCH", help="The platform to choose from an index (default: this machine's).")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the image's id.")
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    images: tuple[str, ...],
    platform: str | None,
    quiet: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Fetch images with all their layers. What is here already is not fetched again; every byte is verified.

    \b
    Examples:
      lamina pull debian:12
      lamina pull --platform linux/arm64 registry.example/team/app:1
    """
    from lamina.engine.engine import own_platform
    from lamina.engine.images.importing import pull
    from lamina.oci.platform import Platform
    from lamina.oci.reference import Reference

    wanted = Platform.parse(platform) if platform else own_platform()
    references = [Reference.parse(text).with_default_tag() for text in images]
    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        for reference in references:
            before = engine.store.images.by_name(str(reference), str(wanted))
            image = pull(engine.store, engine.registry(), reference, wanted)
            if quiet:
                print(image.id)
                continue
            same = before is not None and before.manifest == image.manifest
            print(f"{'Up to date' if same else 'Pulled'}: {reference.familiar}")
            print(f"Digest: {image.manifest}")
    return 0
