"""`lamina completion`."""

from __future__ import annotations

import click

from lamina.cli.settings import Settings


@click.command(short_help="Print the completion script of a shell")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def command(settings: Settings, /, shell: str) -> int:
    """Print a completion script.

    \b
    Examples:
      source <(lamina completion bash)
      lamina completion fish > ~/.config/fish/completions/lamina.fish
    """
    from click.shell_completion import get_completion_class

    from lamina.cli.group import cli

    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(cli, {}, "lamina", "_LAMINA_COMPLETE").source())
    return 0
