"""`lamina cache ls|du|forget|prune|push|pull|verify`: of the store, or with a PLACE of a shared cache. Pushing and pulling need a PLACE."""

from __future__ import annotations

import json
import sys
import time

import click

from lamina.cli import inputs
from lamina.cli.commands.declaring import WithCacheMounts, declared
from lamina.cli.commands.mount_options import mount_option
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.words import age, seconds, shorten, size, table
from lamina.oci import typed

_WHERE = "name a shared cache: dir:PATH, oci://REGISTRY/REPOSITORY, s3://BUCKET/PREFIX or https://SERVER"
_MEANING = (
    "The lines image and record are parts of the line layers. SHARED: several images hold it. RECLAIMABLE: `lamina cache prune --all` frees it. "
    "The line all is what the store takes on the disk."
)


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
@click.argument("place", required=False)
@click.pass_obj
def list_records(settings: Settings, /, as_json: bool, no_trunc: bool, place: str | None) -> int:
    """List cache records, newest first: the store's, or those of a shared cache.

    \b
    Examples:
      lamina cache ls
      lamina cache ls oci://registry.example/team/cache
    """
    if place is not None:
        from lamina.cli import sharedcache

        return sharedcache.list_records(settings, place, as_json=as_json, no_trunc=no_trunc)
    with open_engine(settings) as engine:
        records = engine.records.records()
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(typed.encode_json(records), indent=2) + b"\n")
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
@click.argument("place", required=False)
@click.pass_obj
def usage(settings: Settings, /, as_json: bool, place: str | None) -> int:
    """Say where the bytes are: the store's, or those of a shared cache, by project.

    \b
    Examples:
      lamina cache du
      lamina cache du s3://ci/cache
    """
    if place is not None:
        from lamina.cli import sharedcache

        return sharedcache.usage(settings, place, as_json=as_json)
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
@click.option("--keep", metavar="SIZE", help="Keep at most so much, metadata included, for example 20g.")
@click.option("--older-than", metavar="AGE", help="Remove what was not used for so long (default 7d without --keep).")
@click.option("--all", "everything", is_flag=True, help="Remove everything that no image holds.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--explain", is_flag=True, help="Give the reason for each thing that goes or stays.")
@click.option("--project", metavar="NAME", help="Only this project's records, and what only they need.")
@click.argument("place", required=False)
@click.pass_obj
def prune(
    settings: Settings,
    /,
    keep: str | None,
    older_than: str | None,
    everything: bool,
    dry_run: bool,
    explain: bool,
    project: str | None,
    place: str | None,
) -> int:
    """Free disk space. What a tagged image or a running build needs stays. With a PLACE: in a shared cache, else in this store.

    Layers of the cache go, cache mounts (RUN --mount=type=cache), downloads of ADD, and what is known of contexts' files. Under --keep
    what is worth least goes first: what nothing is known of, then layers by the seconds that they save, by size and last use. --keep counts all
    that lies on the disk; images that have names stay, also where they alone are more.

    A project is called as the folder or repository of its builds' context is, or as LAMINA_PROJECT said (of a shared cache: project=).

    \b
    Examples:
      lamina cache prune --older-than 7d
      lamina cache prune --keep 20g --explain --dry-run
      lamina cache prune --project shop --older-than 1d
    """
    from lamina.store.gc import prune_to_size
    from lamina.store.policy import PrunePolicy

    limit = inputs.size(keep, "--keep") if keep else None
    oldest = inputs.duration(older_than, "--older-than") if older_than else None if limit is not None or everything else 7 * 86400.0
    if place is not None:
        from lamina.cli import sharedcache

        if everything:
            oldest = 0.0
        return sharedcache.prune(settings, place, keep=limit, older_than=oldest, project=project, dry_run=dry_run, explain=explain)
    with open_engine(settings, making_room=not dry_run) as engine:
        done, left = prune_to_size(engine.store, PrunePolicy(time.time(), oldest, limit, everything, project), dry_run=dry_run)
    if explain:
        for decision in done.decisions:
            print(
                f"{'remove' if decision.remove else 'keep  '} {decision.row.label or decision.row.name[:24]}  {size(decision.row.size)}  {decision.reason}"
            )
    verb = "would free" if dry_run else "freed"
    mounts = sum(1 for name in done.swept.idle if name.startswith("cachemounts/"))
    print(
        f"{verb} {size(done.swept.freed)}: {len(done.swept.layers)} layers, {len(done.swept.blobs)} blobs, {mounts} cache mounts; {size(left)} are left"
    )
    if limit is not None and project is None and left > limit:
        print(f"more than --keep {keep}: images and running builds hold it (`lamina rmi`)")
    return 0


@command.command("push", cls=WithCacheMounts)
@click.argument("place", required=False)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@declared((mount_option("Hand over cache mounts of RUN --mount=type=cache too: all, or those with this id."),))
@click.pass_obj
def push(settings: Settings, /, place: str | None, images: tuple[str, ...], cache_mounts: tuple[str, ...]) -> int:
    """Hand over to a shared cache what this store has: all records, or those of the builds that made these images.

    \b
    Examples:
      lamina cache push oci://registry.example/team/cache app:1
      lamina cache push s3://ci/cache --cache-mounts=id=go-build
    """
    from lamina.cli import sharedcache

    if place is None:
        raise inputs.BadOption("cache push: to where?", hint=_WHERE)
    return sharedcache.push(settings, place, images, cache_mounts)


@command.command("pull", cls=WithCacheMounts)
@click.argument("place", required=False)
@click.option("--records-only", is_flag=True, help="Leave the layers: a build with --cache-from fetches those that it needs.")
@declared((mount_option("Take over cache mounts too, by merge=union (the default) or newest; nothing local is removed."),))
@click.pass_obj
def pull(settings: Settings, /, place: str | None, records_only: bool, cache_mounts: tuple[str, ...]) -> int:
    """Take over what a shared cache has, so that later builds find it without asking, also offline.

    \b
    Examples:
      lamina cache pull dir:/mnt/cache
    """
    from lamina.cli import sharedcache

    if place is None:
        raise inputs.BadOption("cache pull: from where?", hint=_WHERE)
    return sharedcache.pull(settings, place, layers=not records_only, mounts=cache_mounts)


@command.command("verify")
@click.argument("place", required=False)
@click.option("--bytes", "bytes_too", is_flag=True, help="Read and hash every blob (of the store: every file of the layers too).")
@click.option("--repair", is_flag=True, help="Remove what is damaged: it comes back when somebody builds it again.")
@click.pass_obj
def verify(settings: Settings, /, place: str | None, bytes_too: bool, repair: bool) -> int:
    """Prove that a cache is sound: records unaltered, what they need there. Exit code 1 when it is not. Without a PLACE: `lamina check`.

    \b
    Examples:
      lamina cache verify
      lamina cache verify dir:/mnt/cache --bytes
    """
    if place is None:
        from lamina.cli.commands.check import look

        return look(settings, deep=bytes_too, repair=repair, as_json=False)
    from lamina.cli import sharedcache

    return sharedcache.verify(settings, place, bytes_too=bytes_too, repair=repair)
