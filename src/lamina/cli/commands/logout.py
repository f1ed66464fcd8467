"""`lamina logout`."""

from __future__ import annotations

import sys

import click

from lamina.cli.commands.registry_options import registry_name
from lamina.cli.settings import Settings


@click.command(short_help="Forget a login")
@click.argument("registry", default="docker.io")
@click.pass_obj
def command(settings: Settings, /, registry: str) -> int:
    """Forget the login of REGISTRY (default: docker.io), also for docker and podman.

    \b
    Examples:
      lamina logout registry.example
    """
    from lamina.registry.logins import log_out, login_files

    name = registry_name(registry)
    known = log_out(login_files(settings.environment)[0], name)
    print(f"Logged out of {name}" if known else f"There was no login for {name}", file=sys.stderr)
    return 0
