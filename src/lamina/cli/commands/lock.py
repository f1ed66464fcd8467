"""`lamina lock`, and `lamina build --lock`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lamina.cli.commands.build_options import request_from, shared_options
from lamina.cli.commands.declaring import WithCacheMounts
from lamina.cli.session import open_engine
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.freshness.lockfile import Lock
    from lamina.engine.request import BuildRequest, BuildResult

DIFFERS = 3


@click.command(cls=WithCacheMounts, short_help="Write the digests of everything that a build uses to lamina.lock")
@click.argument("path", default=".")
@click.option("--fresh", is_flag=True, help="Drop entries that this build does not use (other targets).")
@click.option("--check", is_flag=True, help="Write nothing; exit code 3 when the file would change.")
@shared_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    path: str,
    fresh: bool,
    check: bool,
    quiet: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
    **options: Any,
) -> int:
    """Ask what the build's base images, URLs and repositories are now, and write their digests to PATH/lamina.lock. Nothing is built.

    `lamina build --locked` then takes exactly these. List lamina.lock in .dockerignore where the whole context is copied.

    \b
    Examples:
      lamina lock .
      lamina lock --check .
      lamina build --locked -t app:1 .
    """
    from lamina.cli.inputs import BadOption

    if options["locked"]:
        raise BadOption("--locked goes with build and plan")
    request = request_from(settings, path, {**options, "pull": True})
    with open_engine(settings, registry_ca=registry_ca, insecure_registries=insecure_registries) as engine:
        found = engine.lock(request)
    changed = _write(request, found, fresh=fresh, check=check, quiet=quiet)
    return DIFFERS if check and changed else 0


def keep(engine: Engine, request: BuildRequest, result: BuildResult) -> None:
    """Write what a build used."""
    from lamina.engine.freshness.lockfile import lock_of_origins
    from lamina.engine.freshness.origins import read

    origins = [origin for image in result.images if (origin := read(engine.store.origins.of(image.id))) is not None]
    _write(request, lock_of_origins(origins), fresh=False, check=False, quiet=True)


def _write(request: BuildRequest, found: Lock, *, fresh: bool, check: bool, quiet: bool) -> bool:
    from lamina.engine.freshness.lockfile import NAME, Lock, changes, merged, read_lock, write_lock

    file = request.context / NAME
    old = read_lock(file) if file.exists() else Lock()
    new = found if fresh else merged(old, found)
    lines = changes(old, new)
    if not quiet:
        for line in lines:
            print(line)
        count = len(new.images) + len(new.git) + len(new.urls)
        said = "would change" if check and lines else "is current" if not lines else "written"
        print(f"{file}: {count} {'entries' if count != 1 else 'entry'}, {said}", file=sys.stderr)
    if not check:
        write_lock(file, new)
    return bool(lines)
