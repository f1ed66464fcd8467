"""`lamina login`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lamina.cli.commands.registry_options import registry_name, registry_options, transport
from lamina.cli.inputs import BadOption, stdin
from lamina.cli.settings import Settings

_LONGEST = 1 << 20


@click.command(short_help="Log in to a registry")
@click.argument("registry", default="docker.io")
@click.option("-u", "--username", metavar="NAME", help="The user (default: asked for).")
@click.option("--password-stdin", is_flag=True, help="Read the password or access token from standard input.")
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    registry: str,
    username: str | None,
    password_stdin: bool,
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Log in to REGISTRY (default: docker.io). The login is tried first, and kept where docker keeps it: with the credential program
    that config.json names, else in that file. It is good for docker, podman and skopeo too.

    \b
    Examples:
      lamina login registry.example
      lamina login -u ci --password-stdin registry.example < token
    """
    from lamina.registry.auth import Credentials, Given
    from lamina.registry.logins import log_in, login_files
    from lamina.registry.session import Session

    name = registry_name(registry)
    if password_stdin:
        if not username:
            raise BadOption("--password-stdin needs --username")
        password = stdin().read(_LONGEST).decode(errors="replace").rstrip("\r\n")
    else:
        if sys.stdin is None or not sys.stdin.isatty():
            raise BadOption("there is no terminal to ask for the password", hint="give it to standard input, with --password-stdin")
        username = username or click.prompt("Username", err=True)
        password = click.prompt("Password", hide_input=True, err=True)
    if not password:
        raise BadOption("the password is empty")
    credentials = Credentials(str(username), password)
    line = transport(settings, registry_ca, insecure_registries)
    try:
        Session(line, Given(name, credentials)).check(name)
    finally:
        line.close()
    file = login_files(settings.environment)[0]
    program = log_in(file, name, credentials)
    where = f"kept by docker-credential-{program}" if program else f"kept in {file}, not encrypted"
    print(f"Logged in to {name} as {username}; {where}", file=sys.stderr)
    return 0
