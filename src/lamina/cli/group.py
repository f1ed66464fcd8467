"""The root group: global options, commands imported when they are called, did-you-mean for the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lamina.cli.main import COMMANDS
from lamina.cli.settings import Settings
from lamina.version import __version__


class LazyGroup(click.Group):
    """Imports lamina.cli.commands.<module> only for the command that runs; the overview comes from COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        from importlib import import_module

        command = import_module(f"lamina.cli.commands.{found[0]}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from lamina.diagnostics.errors import nearest

            near = nearest(name, list(COMMANDS))
            raise click.UsageError(f"no such command: {name!r}." + (f" Did you mean {near!r}?" if near else " `lamina --help` lists them."))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as wrong:
            option = next((each for each in self.params if wrong.option_name in each.opts and not each.is_eager), None)
            if option is None or wrong.ctx is None:
                raise
            value = "" if isinstance(option, click.Option) and option.is_flag else f" {option.metavar or 'PATH'}"
            said = f"{wrong.option_name} is an option of lamina itself and goes before the command: lamina {wrong.option_name}{value} {ctx.invoked_subcommand} …"
            raise click.UsageError(said, wrong.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, no_args_is_help=True)
@click.version_option(__version__, "-V", "--version", message="lamina %(version)s")
@click.option("--root", type=click.Path(path_type=Path), envvar="LAMINA_ROOT", help="The store (default: $XDG_DATA_HOME/lamina).")
@click.option(
    "--sandbox",
    "rung",
    envvar="LAMINA_SANDBOX",
    metavar="RUNG",
    help="Force a rung of the sandbox: root, userns, userns-fuse, userns-single, runc, crun, chroot, proot or none.",
)
@click.option("--limit", "limits", envvar="LAMINA_LIMIT", metavar="LIMITS", help="What each RUN may use: memory=512m,cpus=1.5,pids=200.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, root: Path | None, rung: str | None, limits: str | None, debug: bool) -> Any:
    """Build container images without a daemon and without root, with a cache that gives a reason for every step.

    \b
    Examples:
      lamina build -t app:1 .
      lamina plan .
      lamina why app:1
    """
    arguments, environment = ctx.obj or ((), os.environ)
    ctx.obj = Settings.from_environment(environment, root=root, rung=rung, debug=debug, arguments=arguments, limits=limits)
