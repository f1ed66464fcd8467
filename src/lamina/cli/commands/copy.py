"""`lamina copy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from lamina.cli.commands.registry_options import compression_option, registry_options
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Copy an image between registries, layouts and archives")
@click.argument("source")
@click.argument("target")
@click.option("--platform", metavar="OS/ARCH", help="Only this platform of an index (default: all).")
@compression_option
@click.option("--referrers", is_flag=True, help="Copy what refers to it too: signatures, attestations, SBOMs.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the digest.")
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    source: str,
    target: str,
    platform: str | None,
    compression: Literal["auto", "gzip", "zstd", "none"],
    referrers: bool,
    quiet: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Copy an image from SOURCE to TARGET. Digests stay what they are, and what TARGET has is not sent.

    A place is docker://REFERENCE (a registry), oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or a name of the
    store. The store and docker's archive take one platform: this machine's, or that of --platform.

    \b
    Examples:
      lamina copy docker://debian:12 docker://registry.example/base/debian:12
      lamina copy --referrers docker://hub.example/app:1 docker://registry.example/app:1
      lamina copy app:1 oci:build/app:1
      lamina copy oci-archive:app.tar docker://registry.example/team/app:1
    """
    from lamina.cli.words import size
    from lamina.engine.engine import own_platform
    from lamina.engine.registries.copying import copy
    from lamina.engine.registries.places import parse_place
    from lamina.oci.platform import Platform

    origin, goal = parse_place(source), parse_place(target)
    wanted = Platform.parse(platform) if platform else None
    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        done = copy(
            engine.store,
            engine.registry(),
            origin,
            goal,
            own_platform(),
            platform=wanted,
            compression=compression,
            with_referrers=referrers,
        )
    if not quiet:
        if done.unchanged:
            print(f"{goal} has it already", file=sys.stderr)
        elif done.sent or done.mounted or done.there:
            print(
                f"{done.sent} blobs copied ({size(done.sent_bytes)}), {done.mounted} mounted, {done.there} there already", file=sys.stderr
            )
        if referrers:
            print(f"{done.referrers} documents that refer to it", file=sys.stderr)
    print(done.digest)
    return 0
