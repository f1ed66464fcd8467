"""`lamina lint`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Literal

import click

from lamina.cli import inputs
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.diagnostics.diagnostic import Diagnostic

Form = Literal["text", "json", "sarif"]


@click.command(short_help="Check a Dockerfile without building it")
@click.argument("path", default=".")
@click.option("-f", "--file", "file", metavar="FILE", help="The Dockerfile (default: PATH/Dockerfile; - is standard input).")
@click.option("--skip", "skip", multiple=True, metavar="RULE[,RULE]", help="Leave these rules out, or all (errors of the file stay).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--sarif", "as_sarif", is_flag=True, help="Print the findings as SARIF 2.1.0.")
@click.pass_obj
def command(settings: Settings, /, path: str, file: str | None, skip: tuple[str, ...], as_json: bool, as_sarif: bool) -> int:
    """Check a Dockerfile: errors, BuildKit's check rules by name, and what makes its cache miss for nothing. Exit code 1 when there is an error.

    \b
    Examples:
      lamina lint
      lamina lint -f docker/Dockerfile --json .
      lamina lint --sarif > dockerfile.sarif
    """
    form: Form = "sarif" if as_sarif else "json" if as_json else "text"
    found = lint_file(path, file, form, skip=_rules(skip))
    return 1 if any(item.severity == "error" for item in found) else 0


def lint_file(path: str, file: str | None, form: Form, *, skip: frozenset[str] = frozenset()) -> list[Diagnostic]:
    """Print what is found, and return it."""
    from lamina.diagnostics.render import as_json as document_of
    from lamina.diagnostics.render import render
    from lamina.dockerfile import parse
    from lamina.dockerfile.ignore import IgnoreRules
    from lamina.dockerfile.lint import lint

    context = inputs.context(path, file)
    if context.incoming is not None and context.incoming.dockerfile is not None:
        raise inputs.BadOption(f"{path}: only a Dockerfile that is here can be checked", hint="lamina lint -f - < Dockerfile")
    document = parse(context.text, context.name)
    found = list(document.errors)
    if not found:
        found += lint(document, ignore=IgnoreRules.parse(context.ignore) if context.ignore is not None else None, skip=skip)
    if form == "sarif":
        from lamina.diagnostics.sarif import sarif
        from lamina.dockerfile.lintrules import SUMMARIES
        from lamina.version import __version__

        json.dump(sarif(found, version=__version__, summaries=SUMMARIES), sys.stdout, indent=2, ensure_ascii=False)
        print()
    elif form == "json":
        json.dump([document_of(item) for item in found], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for item in found:
            print(render(item))
            if "/" not in item.code:
                print(f"rule: {item.code}")
        print(
            f"{len(found)} finding{'s' if len(found) != 1 else ''}" if found else f"{context.name}: nothing to complain of", file=sys.stderr
        )
    return found


def _rules(values: tuple[str, ...]) -> frozenset[str]:
    from lamina.diagnostics.errors import nearest
    from lamina.dockerfile.lintrules import RULES

    names = frozenset(name.strip() for value in values for name in value.split(",") if name.strip())
    for name in names - RULES.keys() - {"all"}:
        near = nearest(name, list(RULES))
        raise inputs.BadOption(
            f"--skip {name}: there is no such rule", hint=f"did you mean {near}?" if near else "docs/reference/lint.md has them"
        )
    return names
