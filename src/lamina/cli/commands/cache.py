"""`lamina cache ls|du|forget|prune`."""

from __future__ import annotations

import json
import sys
import time

import click

from lamina.cli import inputs
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.words import age, seconds, shorten, size, table

_MEANING = "The lines image and record are parts of the line layers. SHARED: several images hold it. RECLAIMABLE: `lamina cache prune --all` frees it."


@click.group(short_help="List, measure, forget and prune cache records", no_args_is_help=True)
def command() -> None:
    """Look after the cache.

    \b
    Examples:
      lamina cache ls
      lamina cache forget deps
      lamina cache prune --keep 20g --older-than 7d
    """


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
@click.option("--no-trunc", is_flag=True, help="Show keys and texts whole.")
@click.pass_obj
def list_records(settings: Settings, /, as_json: bool, no_trunc: bool) -> int:
    """List cache records, newest first.

    \b
    Examples:
      lamina cache ls
    """
    with open_engine(settings) as engine:
        records = engine.records.records()
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(records), indent=2) + b"\n")
        return 0
    now = time.time()
    rows = [
        (
            r.key.removeprefix("sha256:")[: None if no_trunc else 12],
            age(max(0.0, now - r.created)),
            seconds(r.seconds),
            size(r.layers[-1].size if r.layers else 0),
            f"{r.place.stage}:{r.place.position}" if r.place.stage else "",
            r.place.text if no_trunc else shorten(r.place.text, 60),
        )
        for r in records
    ]
    print(table(("KEY", "CREATED", "TOOK", "SIZE", "PLACE", "STEP"), rows))
    return 0


@command.command("du")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_obj
def usage(settings: Settings, /, as_json: bool) -> int:
    """Say where the store's bytes are.

    \b
    Examples:
      lamina cache du
    """
    from lamina.store.gc import du

    with open_engine(settings) as engine:
        lines = du(engine.store)
    if as_json:
        json.dump(
            [{"kind": u.kind, "name": u.name, "size": u.size, "shared": u.shared, "reclaimable": u.reclaimable} for u in lines],
            sys.stdout,
            indent=2,
        )
        print()
        return 0
    print(
        table(
            ("KIND", "NAME", "SIZE", "SHARED", "RECLAIMABLE"),
            [(u.kind, shorten(u.name, 60), size(u.size), size(u.shared), size(u.reclaimable)) for u in lines],
        )
    )
    print(_MEANING)
    return 0


@command.command("forget")
@click.argument("selectors", nargs=-1, metavar="[SELECTOR]...")
@click.option("--all", "everything", is_flag=True, help="Forget every record.")
@click.pass_obj
def forget(settings: Settings, /, selectors: tuple[str, ...], everything: bool) -> int:
    """Do not use these records again: a stage, stage:N (as in "[stage N/M]"), or the beginning of an instruction.

    \b
    Examples:
      lamina cache forget deps
      lamina cache forget "RUN apt-get"
    """
    from lamina.engine.cacheadmin import forget as forget_records

    if not selectors and not everything:
        raise inputs.BadOption("cache forget needs a selector", hint="a stage, stage:N, the beginning of an instruction, or --all")
    with open_engine(settings) as engine:
        count = forget_records(engine.records, selectors, everything=everything)
    print(f"{count} record{'s' if count != 1 else ''} forgotten")
    return 0


@command.command("prune")
@click.option("--keep", metavar="SIZE", help="Keep at most so much, for example 20g.")
@click.option("--older-than", metavar="AGE", help="Remove what was not used for so long (default 7d without --keep).")
@click.option("--all", "everything", is_flag=True, help="Remove everything that no image holds.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--explain", is_flag=True, help="Give the reason for each thing that goes or stays.")
@click.pass_obj
def prune(settings: Settings, /, keep: str | None, older_than: str | None, everything: bool, dry_run: bool, explain: bool) -> int:
    """Free disk space. What a tagged image or a running build needs stays.

    Layers of the cache go, cache mounts (RUN --mount=type=cache), downloads of ADD, and what is known of contexts' files. Under --keep
    what is worth least goes first: what nothing is known of, then layers by the seconds that they save, by size and last use.

    \b
    Examples:
      lamina cache prune --older-than 7d
      lamina cache prune --keep 20g --explain --dry-run
    """
    from lamina.store.gc import prune as prune_store
    from lamina.store.policy import PrunePolicy

    limit = inputs.size(keep, "--keep") if keep else None
    oldest = inputs.duration(older_than, "--older-than") if older_than else None if limit is not None or everything else 7 * 86400.0
    with open_engine(settings, making_room=not dry_run) as engine:
        done = prune_store(engine.store, PrunePolicy(time.time(), oldest, limit, everything), dry_run=dry_run)
    if explain:
        for decision in done.decisions:
            print(
                f"{'remove' if decision.remove else 'keep  '} {decision.row.label or decision.row.name[:24]}  {size(decision.row.size)}  {decision.reason}"
            )
    verb = "would free" if dry_run else "freed"
    mounts = sum(1 for name in done.swept.idle if name.startswith("cachemounts/"))
    print(f"{verb} {size(done.swept.freed)}: {len(done.swept.layers)} layers, {len(done.swept.blobs)} blobs, {mounts} cache mounts")
    return 0
