"""Writes docs/reference/cli.md from the commands themselves.

.venv/bin/python docs/reference/generate_cli.py            write it
.venv/bin/python docs/reference/generate_cli.py --check    exit 1 when the file says something else
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from lamina.cli.group import cli
from lamina.cli.main import COMMANDS

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Generated from the commands by `docs/reference/generate_cli.py`; do not edit. A test compares.

Exit codes: [exit-codes.md](exit-codes.md). Environment: [environment.md](environment.md).
"""


def sections(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    """The help of *command*, and of what is below it."""
    context = click.Context(command, info_name=" ".join(path), max_content_width=100, terminal_width=100)
    yield f"{'#' * (len(path) + 1)} {' '.join(path)}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group) and len(path) > 1:
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            if below.hidden:
                continue
            yield from sections(below, (*path, name))


def page() -> str:
    context = click.Context(cli, info_name="lamina")
    parts = [HEAD, *sections(cli, ("lamina",))]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts.extend(sections(command, ("lamina", name)))
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    text = page()
    if arguments == ["--check"]:
        if PAGE.read_text() != text:
            print("docs/reference/cli.md is not what the commands say; run docs/reference/generate_cli.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
