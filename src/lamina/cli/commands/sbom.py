"""`lamina sbom`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from lamina.cli.commands.registry_options import registry_options
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="List the packages in an image")
@click.argument("image")
@click.option(
    "--format", "form", type=click.Choice(["table", "spdx", "cyclonedx"]), default="table", show_default=True, help="How to print it."
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format spdx.")
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    image: str,
    form: Literal["table", "spdx", "cyclonedx"],
    as_json: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """List the packages in an image: of dpkg, apk and rpm, of Python and npm. Its files are read; nothing of it is run.

    \b
    Examples:
      lamina sbom app:1
      lamina sbom --format cyclonedx app:1 > app.cdx.json
    """
    from lamina.cli.words import table
    from lamina.engine.attest.making import bill, packages_of
    from lamina.engine.images.finding import find_image
    from lamina.oci.canonical import canonical
    from lamina.oci.reference import Reference

    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        found = find_image(engine.store, image)
        packages = packages_of(engine, found)
    for text in packages.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if as_json or form != "table":
        name = Reference.parse(found.names[0]).familiar if found.names else found.id
        document = bill(packages, "cyclonedx" if form == "cyclonedx" else "spdx", name, found.manifest, found.created)
        sys.stdout.write(canonical(document).decode() + "\n")
    else:
        print(table(("TYPE", "NAME", "VERSION"), [(each.ecosystem, each.name, each.version) for each in packages.packages]))
    return 0
