"""`lamina pipeline caches ls|rm|explain`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli import inputs
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.pipelines.caches.slots import SlotCaches
    from lamina.pipelines.caches.versions import VersionedCaches
    from lamina.pipelines.model import Cache
    from lamina.pipelines.worktree import Worktree


@click.group("caches", short_help="List, remove and explain the caches of a repository's steps", no_args_is_help=True)
def caches() -> None:
    """The path caches of a repository's pipelines. The docker cache is the build cache: `lamina cache`.

    \b
    Examples:
      lamina pipeline caches ls
      lamina pipeline caches explain node
    """


@caches.command("ls")
@click.argument("path", default=".")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, with the fields of Bitbucket's API.")
@click.pass_obj
def ls(settings: Settings, /, path: str, as_json: bool) -> int:
    """List the versions of each cache, newest first.

    \b
    Examples:
      lamina pipeline caches ls
    """
    from lamina.pipelines.caches.keeping import age, megabytes
    from lamina.pipelines.show import visible

    versions, slots = _stores(settings, path)
    rows = versions.rows()
    if as_json:
        found: list[dict[str, object]] = [
            {
                "uuid": row.id, "name": row.name, "path": row.path, "key_hash": row.key, "file_size_bytes": row.size, "files": row.files,
                "created_on": row.created, "used_on": row.used, "step": row.step, "current": row.head, "kind": "lamina",
            }
            for row in rows
        ]  # fmt: skip
        found += [
            {"name": slot.name, "path": slot.path, "key_hash": slot.key, "file_size_bytes": slot.size, "created_on": slot.created, "kind": "bitbucket"}
            for slot in slots.rows()
        ]  # fmt: skip
        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return 0
    now = time.time()
    for row in rows:
        words = [
            f"{row.files} files",
            megabytes(row.size),
            f'saved by "{row.step}" {age(now - row.created)}',
            f"used {age(now - row.used)}",
        ]
        print(visible(f"{row.name}  {row.path}  {row.id[:12]}  " + ", ".join([*words, *([f"key {row.key[:12]}"] if row.key else [])])))
    for slot in slots.rows():
        print(visible(f"{slot.name}  {slot.path}  --bitbucket-caches  {megabytes(slot.size)}, saved {age(now - slot.created)}"))
    return 0


@caches.command("rm")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All caches of the repository.")
@click.option("-C", "path", default=".", metavar="PATH", help="The repository (default: the current folder).")
@click.pass_obj
def rm(settings: Settings, /, names: tuple[str, ...], everything: bool, path: str) -> int:
    """Remove all versions of caches, and the contents that no other one needs.

    \b
    Examples:
      lamina pipeline caches rm node
      lamina pipeline caches rm --all
    """
    from lamina.diagnostics.errors import nearest
    from lamina.pipelines.caches.keeping import Identity

    if not names and not everything:
        raise inputs.BadOption("name caches, or give --all")
    versions, slots = _stores(settings, path)
    known = {row.name for row in versions.rows()} | {slot.name for slot in slots.rows()}
    for name in names:
        if name not in known:
            near = nearest(name, sorted(known))
            raise inputs.BadOption(f"there is no cache {name!r}", hint=f"did you mean {near!r}?" if near else None, exit_code=66)
    count = versions.remove(() if everything else names)
    for slot in slots.rows():
        if everything or slot.name in names:
            slots.remove(Identity(slot.name, slot.path, slot.key))
            count += 1
    print(f"{count} removed")
    return 0


@caches.command("explain")
@click.argument("name")
@click.option("-C", "path", default=".", metavar="PATH", help="The repository (default: the current folder).")
@click.option("-f", "--file", "file", metavar="FILE", help="The pipelines file (default: PATH/bitbucket-pipelines.yml).")
@click.pass_obj
def explain(settings: Settings, /, name: str, path: str, file: str | None) -> int:
    """Say what the next step that names this cache would find, and why. Nothing is restored.

    \b
    Examples:
      lamina pipeline caches explain node
    """
    from lamina.cli.commands.pipeline import read_file
    from lamina.diagnostics.errors import nearest
    from lamina.pipelines import worktree
    from lamina.pipelines.caches.keeping import DOCKER, identify
    from lamina.pipelines.check import PREDEFINED_CACHES
    from lamina.pipelines.load import load
    from lamina.pipelines.model import Cache
    from lamina.pipelines.show import visible

    shown, text = read_file(path, file)
    document = load(text, shown)
    root = worktree.inspect(Path(path)).root
    cache = document.definitions.caches.get(name)
    if cache is None and name not in PREDEFINED_CACHES:
        near = nearest(name, [*document.definitions.caches, *PREDEFINED_CACHES])
        raise inputs.BadOption(f"no cache {name!r} is defined", hint=f"did you mean {near!r}?" if near else None, exit_code=66)
    if cache is None:
        from lamina.diagnostics.span import Span

        cache = Cache(name, Span(document.source, 0, 0), PREDEFINED_CACHES[name])
    if name == DOCKER and not cache.path:
        print("docker: shared: every step reads and adds to the build cache of this machine (lamina cache ls)")
        return 0
    versions, _ = _stores(settings, path)
    identity = identify(cache, root)
    for line in versions.explain(identity):
        print(visible(line))
    return 0


def state_of(settings: Settings, tree: Worktree, *, bitbucket_caches: bool) -> Callable[[Cache], str]:
    """`hit: …` or `miss: …` for what a step that begins now would find, by the work tree's key files. Each cache is looked for once."""
    from lamina.pipelines.caches.keeping import DOCKER, Identity, identify

    versions, slots = _stores_of(settings, tree)
    found: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def look(cache: Cache) -> str:
        if cache.name == DOCKER and not cache.path:
            return slots.state(Identity(DOCKER, "docker.tar")) if bitbucket_caches else "shared: the build cache of this machine"
        identity = identify(cache, tree.root)
        return slots.state(identity) if bitbucket_caches else versions.state(identity)

    def state(cache: Cache) -> str:
        known = (cache.name, cache.path, tuple(text.value for text in cache.key_files))
        if known not in found:
            found[known] = look(cache)
        return found[known]

    return state


def _stores(settings: Settings, path: str) -> tuple[VersionedCaches, SlotCaches]:
    from lamina.pipelines import worktree

    return _stores_of(settings, worktree.inspect(Path(path)))


def _stores_of(settings: Settings, tree: Worktree) -> tuple[VersionedCaches, SlotCaches]:
    from lamina.cli.commands.pipeline_run import project_identity
    from lamina.pipelines.caches.slots import SlotCaches
    from lamina.pipelines.caches.versions import VersionedCaches
    from lamina.pipelines.run.history import Project

    project = Project(settings.root, project_identity(tree))
    return VersionedCaches(project.caches, time.time), SlotCaches(project.slots, time.time)
