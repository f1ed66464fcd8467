"""`lamina version`."""

from __future__ import annotations

import json

import click

from lamina.cli.settings import Settings
from lamina.version import __version__


@click.command(short_help="Print the version")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def command(settings: Settings, /, as_json: bool) -> int:
    """Print the version.

    \b
    Examples:
      lamina version
    """
    print(json.dumps({"version": __version__}) if as_json else f"lamina {__version__}")
    return 0
