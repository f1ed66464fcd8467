"""`lamina cache … PLACE`: what lies in a shared cache, and its life."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.cache.remote.inventory import Inventory
from lamina.cache.remote.inventory import usage as usage_of
from lamina.cache.remote.shared import SharedCache
from lamina.cache.remote.upkeep import prune as prune_objects
from lamina.cache.remote.upkeep import verify as verify_objects
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.cli.words import age, seconds, shorten, size, table
from lamina.engine.engine import Engine
from lamina.oci import typed

if TYPE_CHECKING:
    from lamina.engine.mountsharing import Moved


@contextmanager
def opened(settings: Settings, place: str) -> Iterator[tuple[Engine, SharedCache]]:
    """With the authority and the hosts without TLS that the environment names, as for registries."""
    given = settings.environment
    ca = Path(given["LAMINA_REGISTRY_CA"]) if given.get("LAMINA_REGISTRY_CA") else None
    insecure = given.get("LAMINA_INSECURE_REGISTRY", "").split()
    with open_engine(settings, registry_ca=ca, insecure_registries=insecure) as engine, engine.open_cache(place) as cache:
        yield engine, cache


def list_records(settings: Settings, place: str, *, as_json: bool, no_trunc: bool) -> int:
    with opened(settings, place) as (_, cache):
        found = Inventory(cache.objects)
    records = sorted((*found.records, *found.mounts), key=lambda record: -record.created)
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(typed.encode_json(records), indent=2) + b"\n")
        return 0
    now = time.time()
    rows = [
        (
            (record.key.removeprefix("sha256:") or record.name.rpartition("/")[2])[: None if no_trunc else 12],
            record.scope,
            age(max(0.0, now - record.created)) if record.created else "",
            age(max(0.0, now - record.used)),
            seconds(record.seconds),
            record.step if no_trunc else shorten(record.step, 60),
        )
        for record in records
    ]
    print(table(("KEY", "SCOPE", "CREATED", "USED", "TOOK", "STEP"), rows))
    return 0


def usage(settings: Settings, place: str, *, as_json: bool) -> int:
    with opened(settings, place) as (_, cache):
        found = usage_of(Inventory(cache.objects))
    if as_json:
        import msgspec

        json.dump(msgspec.to_builtins(found), sys.stdout, indent=2)
        print()
        return 0
    rows = [
        ("records", str(found.records), size(found.record_bytes)),
        ("blobs", str(found.blobs), size(found.blob_bytes)),
        ("chunks", str(found.chunks), size(found.chunk_bytes)),
        ("versions of cache mounts", str(found.mounts), size(found.mount_bytes)),
        ("blobs and chunks that nothing needs", str(found.orphans), size(found.orphan_bytes)),
        ("notes of use and place", "", size(found.other_bytes)),
        ("all", "", size(found.total)),
    ]
    print(table(("WHAT", "COUNT", "SIZE"), rows))
    if any(share.project for share in found.projects):
        print()
        shares = [(share.project or "-", str(share.records), size(share.own), size(share.shared)) for share in found.projects]
        print(table(("PROJECT", "RECORDS", "OWN", "SHARED"), shares))
    return 0


def prune(
    settings: Settings, place: str, *, keep: int | None, older_than: float | None, project: str | None, dry_run: bool, explain: bool
) -> int:
    with opened(settings, place) as (_, cache):
        found = Inventory(cache.objects).records if explain else []
        done = prune_objects(cache.objects, time.time(), expiry=older_than, cap=keep, project=project, dry_run=dry_run)
    if explain:
        for removal in done.removals:
            print(f"remove {shorten(removal.what, 60)}  {size(removal.size)}  {removal.why}")
        gone, now = {removal.name for removal in done.removals}, time.time()
        for record in sorted(found, key=lambda record: record.used):
            if record.name not in gone and project in (None, record.project):
                print(f"keep   {shorten(record.step, 60)}  {size(record.size)}  used {age(max(0.0, now - record.used))} ago")
    print(f"{'would free' if dry_run else 'freed'} {size(done.freed)}: {len(done.removals)} objects; {size(done.left)} are left")
    if done.spared:
        many = f"{done.spared} records over the limit stay" if done.spared != 1 else "1 record over the limit stays"
        print(f"{many} for now: a build may be using what is so young")
    return 0


def verify(settings: Settings, place: str, *, bytes_too: bool, repair: bool) -> int:
    with opened(settings, place) as (_, cache):
        problems = verify_objects(cache.objects, bytes_too=bytes_too, repair=repair)
    for problem in problems:
        print(f"{problem.damage}: {problem.message}", file=sys.stderr)
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}{', removed' if repair and problems else ''}")
    return 1 if problems and not repair else 0


def push(settings: Settings, place: str, images: tuple[str, ...], mounts: tuple[str, ...] = ()) -> int:
    from lamina.engine.cacheadmin import records_of
    from lamina.engine.sharing import push as push_records

    with opened(settings, place) as (engine, cache):
        done = push_records(engine.store, records_of(engine.store, engine.records, images), cache, _warn, host=engine.host)
        sent = _push_mounts(engine, cache, mounts)
    print(f"{done.records} records sent, {done.records_there} were there; {done.blobs} blobs, {size(done.bytes)}")
    for identifier, moved in sent.items():
        print(f"cache mount {identifier}: " + ("as it is there" if moved is None else f"{moved.files} entries, {size(moved.bytes)} sent"))
    return 0


def pull(settings: Settings, place: str, *, layers: bool, mounts: tuple[str, ...] = ()) -> int:
    from lamina.engine.sharing import pull as pull_records

    with opened(settings, place) as (engine, cache):
        wanted = [record.key for record in Inventory(cache.objects).records]
        count, fetched = pull_records(engine.store, engine.records, wanted, cache, _warn, host=engine.host, layers=layers)
        came = _pull_mounts(engine, cache, mounts)
    print(f"{count} records taken over, {size(fetched)} fetched")
    for identifier, moved in came.items():
        print(f"cache mount {identifier}: {moved.files} files taken over, {size(moved.bytes)} fetched")
    return 0


def _push_mounts(engine: Engine, cache: SharedCache, mounts: tuple[str, ...]) -> dict[str, Moved | None]:
    if not mounts:
        return {}
    from lamina.engine.mountsharing import parse_rule, push_all

    return push_all(cache, engine.store.layout.cachemounts, [parse_rule(text) for text in mounts], _tell)


def _pull_mounts(engine: Engine, cache: SharedCache, mounts: tuple[str, ...]) -> dict[str, Moved]:
    if not mounts:
        return {}
    from lamina.engine.cachemounts import CacheMounts
    from lamina.engine.mountsharing import parse_rule, pull_all
    from lamina.solver.cancel import CancelToken

    own = CacheMounts(engine.store.layout.cachemounts)

    @contextmanager
    def hold(identifier: str, mode: int, uid: int, gid: int) -> Iterator[Path]:
        with own.hold(identifier, "shared", CancelToken(), mode=mode, uid=uid, gid=gid, reset=False) as (data, _):
            yield data

    return pull_all(cache, hold, [parse_rule(text) for text in mounts], _tell)


def _tell(text: str) -> None:
    _warn(text, "cache-mount")


def _warn(text: str, code: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
