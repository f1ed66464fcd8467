"""`lamina check`."""

from __future__ import annotations

import json
import sys

import click

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings


@click.command(short_help="Prove that the store is sound, and repair it")
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option("--deep", is_flag=True, help="Read every layer and compare it with its name.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def command(settings: Settings, /, repair: bool, deep: bool, as_json: bool) -> int:
    """Check blobs, layers, images, records and the database against each other. Exit code 1 when something was found and is not mended.

    --repair removes what is damaged; steps and pulls make it again. A database that cannot be read is set aside (state.db.damaged) and a
    new one begun: the images whose bytes are whole stay, the cache's records are lost. No build may be running then.

    \b
    Examples:
      lamina check
      lamina check --deep --repair
    """
    return look(settings, deep=deep, repair=repair, as_json=as_json)


def look(settings: Settings, *, deep: bool, repair: bool, as_json: bool) -> int:
    """Exit code."""
    from lamina.layer.normal import normalise
    from lamina.oci.reference import Reference
    from lamina.store.check import Finding, check

    found: list[Finding] = []

    def rescued(names: tuple[str, ...]) -> None:
        kept = f"images kept: {', '.join(Reference.parse(name).familiar for name in names)}" if names else "no image could be kept"
        found.append(Finding("check/database", f"the database was damaged; {kept}", "set it aside and begin a new one", repaired=True))

    with open_engine(settings, on_rescue=rescued if repair else None) as engine:
        store = engine.store
        found += check(store, repair=repair, normalise=(lambda folder: normalise(folder, store.flavour).digest) if deep else None)
    if as_json:
        json.dump([{"code": f.code, "message": f.message, "repair": f.repair, "repaired": f.repaired} for f in found], sys.stdout, indent=2)
        print()
    else:
        for finding in found:
            print(f"{finding.code}: {finding.message}" + (" (mended)" if finding.repaired else f"; --repair: {finding.repair}"))
        print("the store is sound" if not found else f"{len(found)} finding{'s' if len(found) != 1 else ''}")
    return 1 if any(not f.repaired for f in found) else 0
