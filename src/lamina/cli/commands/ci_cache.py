"""`lamina ci-cache restore|save`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lamina.cli import inputs
from lamina.cli.settings import Settings
from lamina.cli.words import size

_FOLDER = ".lamina-cache"
_LIMIT = "900m"  # Bitbucket refuses a cache of more than 1 GB after compression; layers lie there compressed already


@click.group(short_help="A CI service's cache folder that merges instead of overwriting", no_args_is_help=True)
def command() -> None:
    """Keep the build cache in a folder that Bitbucket, GitLab or GitHub restores before a job and saves after it.

    What a job saves is added to what was restored: records and layers under their own digests, the least valuable dropped over the limit. So jobs that
    run side by side may use one folder; whichever upload wins, nothing in it is wrong.

    \b
    Examples:
      lamina ci-cache restore && lamina build -t app . && lamina ci-cache save
    """


@command.command("restore")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=_FOLDER)
@click.pass_obj
def restore(settings: Settings, /, folder: Path) -> int:
    """Take over what the CI service restored. An empty or missing folder is fine.

    \b
    Examples:
      lamina ci-cache restore .lamina-cache
    """
    from lamina.cli import sharedcache

    if not folder.is_dir() or not any(folder.iterdir()):
        print(f"{folder}: nothing was restored; the build begins without a cache")
        return 0
    return sharedcache.pull(settings, f"dir:{folder.absolute()}", layers=True)


@command.command("save")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=_FOLDER)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option(
    "--max-size", default=_LIMIT, show_default=True, metavar="SIZE", help="What the folder may hold; the least valuable records go first."
)
@click.option("--max-age", default="7d", show_default=True, metavar="AGE", help="Records that no build used for so long go, too.")
@click.pass_obj
def save(settings: Settings, /, folder: Path, images: tuple[str, ...], max_size: str, max_age: str) -> int:
    """Add what this job built to the folder, and keep it under the limit. With IMAGEs: only the records that made them.

    \b
    Examples:
      lamina ci-cache save .lamina-cache app:1 --max-size 900m
    """
    from lamina.cache.remote.upkeep import prune
    from lamina.cli import sharedcache

    limit = inputs.size(max_size, "--max-size")
    oldest = inputs.duration(max_age, "--max-age")
    folder.mkdir(parents=True, exist_ok=True)
    place = f"dir:{folder.absolute()}"
    code = sharedcache.push(settings, place, images)
    with sharedcache.opened(settings, place) as (_, cache):
        # Nobody else uses the folder: it is this job's copy.
        done = prune(cache.objects, time.time(), expiry=oldest, cap=limit, grace=0.0)
    print(f"{folder}: {size(done.left)}, at most {size(limit)}" + (f"; {size(done.freed)} dropped" if done.freed else ""))
    return code
