"""click's options of those that stand as data in cli/options.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from lamina.cli.commands.mount_options import NAME
from lamina.cli.options import Option

F = TypeVar("F", bound=Callable[..., Any])


class WithCacheMounts(click.Command):
    """Takes `--cache-mounts` for `--cache-mounts=all`: what stands behind it is a rule only if it looks like one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        found = list(args)
        for index in range(end):
            following = args[index + 1] if index + 1 < end else ""
            if args[index] == NAME and not (following == "all" or following.startswith(("id=", "merge="))):
                found[index] = f"{NAME}=all"
        return super().parse_args(ctx, found)


def declared(options: Sequence[Option]) -> Callable[[F], F]:
    """A decorator: the command has these options, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = _click(option)(function)
        return function

    return decorate


def _click(option: Option) -> Callable[[F], F]:
    if option.kind == "flag":
        return click.option(*option.names, option.dest, is_flag=True, help=option.help)
    return click.option(
        *option.names,
        option.dest,
        type=_type(option),
        multiple=option.many,
        default=option.default,
        show_default=option.default is not None,
        metavar=option.metavar,
        envvar=option.env,
        help=option.help,
    )


def _type(option: Option) -> click.ParamType[Any] | None:
    match option.kind:
        case "path":
            return click.Path(path_type=Path)
        case "file":
            return click.Path(exists=True, dir_okay=False, path_type=Path)
        case "number":
            return click.IntRange(1)
    return click.Choice(option.choices) if option.choices else None
