"""`lamina push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from lamina.cli.commands.attest_options import attest_options
from lamina.cli.commands.registry_options import compression_option, registry_options
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.engine.attest.making import Attestor
    from lamina.engine.registries.pushing import Pushed


@click.command(short_help="Send images to registries")
@click.argument("image")
@click.argument("name", required=False)
@click.option("--platform", metavar="OS/ARCH", help="Only this platform, where the name has several.")
@compression_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the digest.")
@attest_options
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    image: str,
    name: str | None,
    platform: str | None,
    compression: Literal["auto", "gzip", "zstd", "none"],
    quiet: bool,
    provenance: str | None,
    sbom: tuple[str, ...],
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Send IMAGE to the registry of its name, or under NAME. What the registry has is not sent; several platforms become one index.

    \b
    Examples:
      lamina push registry.example/team/app:1
      lamina push app:1 registry.example/team/app:1
    """
    from lamina.engine.images.finding import find_platforms
    from lamina.engine.registries.pushing import push
    from lamina.oci.platform import Platform
    from lamina.oci.reference import Reference

    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        found = find_platforms(engine.store, image, Platform.parse(platform) if platform else None)
        reference = Reference.parse(name or _own_name(image, found[0].names)).with_default_tag()
        attest: Attestor | None = None
        if provenance or sbom:
            from lamina.engine.attest.making import Attestor, parse_wanted

            attest = Attestor(engine, parse_wanted(provenance, sbom), lambda text: print(f"warning: {text}", file=sys.stderr))
        pushed = push(engine.store, engine.registry(), found, reference, compression=compression, attest=attest)
    if not quiet:
        print(summary(pushed), file=sys.stderr)
    print(pushed.digest if quiet else f"{pushed.reference.name}@{pushed.digest}")
    return 0


def summary(pushed: Pushed) -> str:
    """One line for people."""
    from lamina.cli.words import size

    name = pushed.reference.familiar
    if pushed.unchanged:
        return f"{name}: the registry has it already"
    parts = [f"{pushed.sent} blobs sent ({size(pushed.sent_bytes)})" if pushed.sent else "nothing sent"]
    parts += [f"{pushed.mounted} mounted"] if pushed.mounted else []
    parts += [f"{pushed.there} there already"] if pushed.there else []
    return f"{name}: {', '.join(parts)}"


def _own_name(text: str, names: tuple[str, ...]) -> str:
    """The name that an image given by its id is pushed under: its only one."""
    from lamina.cli.inputs import BadOption
    from lamina.diagnostics.errors import LaminaError
    from lamina.oci.reference import Reference

    full = ""
    try:
        full = str(Reference.parse(text).with_default_tag())
    except LaminaError as error:
        if not names:
            raise BadOption(f"{text} has no name", hint=f"say where: lamina push {text} REGISTRY/NAME:TAG") from error
    if full in names:
        return full
    if len(names) != 1:
        raise BadOption(f"{text} has {len(names)} names", hint=f"say which: lamina push {text} REGISTRY/NAME:TAG")
    return names[0]
