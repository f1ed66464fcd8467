"""`lamina lint`."""

from __future__ import annotations

import json
import sys

import click

from lamina.cli import inputs
from lamina.cli.settings import Settings


@click.command(short_help="Check a Dockerfile without building it")
@click.argument("path", default=".")
@click.option("-f", "--file", "file", metavar="FILE", help="The Dockerfile (default: PATH/Dockerfile; - is standard input).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def command(settings: Settings, /, path: str, file: str | None, as_json: bool) -> int:
    """Check a Dockerfile: errors, and BuildKit's check rules by name. Exit code 1 when there is an error.

    \b
    Examples:
      lamina lint
      lamina lint -f docker/Dockerfile --json .
    """
    return lint_file(path, file, as_json=as_json)


def lint_file(path: str, file: str | None, *, as_json: bool) -> int:
    from lamina.diagnostics.render import as_json as document_of
    from lamina.diagnostics.render import render
    from lamina.dockerfile import parse
    from lamina.dockerfile.ignore import IgnoreRules
    from lamina.dockerfile.lint import lint

    name, text, ignore, _ = inputs.dockerfile(inputs.context_directory(path), file)
    document = parse(text, name)
    found = list(document.errors)
    if not found:
        found += lint(document, ignore=IgnoreRules.parse(ignore) if ignore is not None else None)
    if as_json:
        json.dump([document_of(item) for item in found], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for item in found:
            print(render(item))
        print(f"{len(found)} finding{'s' if len(found) != 1 else ''}" if found else f"{name}: nothing to complain of", file=sys.stderr)
    return 1 if any(item.severity == "error" for item in found) else 0
