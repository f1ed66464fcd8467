"""`lamina build`."""

from __future__ import annotations

from typing import Any

import click

from lamina.cli.building import OPTIONS, build
from lamina.cli.commands.declaring import WithCacheMounts, declared
from lamina.cli.settings import Settings


@click.command(cls=WithCacheMounts, short_help="Build an image from a Dockerfile")
@click.argument("path", default=".")
@declared(OPTIONS)
@click.pass_obj
def command(settings: Settings, /, **given: Any) -> int:
    """Build an image from the Dockerfile in PATH, the build's context.

    PATH is a directory; a git repository as URL#REF:FOLDER; the URL of an archive or of a Dockerfile; or - for an archive or a Dockerfile on
    standard input. --file names the Dockerfile inside an archive or a repository.

    \b
    Examples:
      lamina build -t app:1 .
      lamina build - < Dockerfile
      lamina build https://host.example/app.git#v1:service
      lamina build --target prod --build-arg V=2 --secret id=tok,src=tok .
      lamina build --refresh deps --output type=oci,dest=app.tar .
    """
    return build(settings, **given)
