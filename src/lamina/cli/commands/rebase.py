"""`lamina rebase`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from lamina.cli.commands.registry_options import registry_options
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Put an image's layers onto a newer base without running anything")
@click.argument("image")
@click.option("--onto", metavar="REF", help="The new base (default: what the tag of its base names now).")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="Name the result so; the image keeps its names.")
@click.option("--strict", is_flag=True, help="Refuse where a RUN stands above the base, or another stage uses it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    image: str,
    onto: str | None,
    tags: tuple[str, ...],
    strict: bool,
    as_json: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Swap the base layers below IMAGE, which was built here. Its names go to the result.

    Done only where both bases have the same ENV, USER, WORKDIR, SHELL and ONBUILD and no path that IMAGE's own layers touch differs between
    them; otherwise the message says what differs. What a RUN has only read in the base cannot be seen: rebuild where that matters.

    \b
    Examples:
      lamina rebase app:1
      lamina rebase app:1 --onto debian:12.9 -t app:rebased
    """
    from lamina.engine.freshness.rebase import rebase
    from lamina.engine.images.finding import find_image
    from lamina.oci.reference import Reference

    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        found = find_image(engine.store, image)
        names = tuple(str(Reference.parse(tag).with_default_tag()) for tag in tags) or found.names
        done = rebase(engine, found, names, onto=onto, strict=strict)
    base = Reference.parse(done.base).familiar if "://" not in done.base else done.base
    if as_json:
        document = {
            "image": done.image.id, "was": found.id, "base": done.base, "base_was": done.was, "base_now": done.now,
            "unchanged": done.unchanged, "runs_taken_over": done.runs, "stages_taken_over": list(done.stages),
        }  # fmt: skip
        print(json.dumps(document, indent=2))
        return 0
    if done.unchanged:
        print(f"{image} stands on {base} already", file=sys.stderr)
    elif done.runs:
        plural = "" if done.runs == 1 else "s"
        print(f"{done.runs} RUN{plural} above {base} taken over as they are: what they have read there is taken as equal", file=sys.stderr)
    if done.stages:
        plural = "" if len(done.stages) == 1 else "s"
        print(
            f"stage{plural} {', '.join(done.stages)}: what was copied from there is of the old base; a rebuild makes it anew",
            file=sys.stderr,
        )
    print(done.image.id)
    return 0
