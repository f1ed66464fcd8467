"""`--cache-mounts`, of `build`, `plan`, `cache push` and `cache pull`: alone, or with a rule after `=`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_NAME = "--cache-mounts"


class WithCacheMounts(click.Command):
    """Takes `--cache-mounts` for `--cache-mounts=all`: what stands behind it is a rule only if it looks like one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        found = list(args)
        for index in range(end):
            following = args[index + 1] if index + 1 < end else ""
            if args[index] == _NAME and not (following == "all" or following.startswith(("id=", "merge="))):
                found[index] = f"{_NAME}=all"
        return super().parse_args(ctx, found)


def mount_option(help_text: str) -> Callable[[F], F]:
    return click.option(_NAME, "cache_mounts", multiple=True, metavar="[id=ID,merge=RULE]", help=help_text)
