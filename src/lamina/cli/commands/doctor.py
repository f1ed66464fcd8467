"""`lamina doctor`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lamina.cli.progress import Paint
from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.sandbox.rungs import Finding

UNUSABLE = 69


@click.command(short_help="Say what works on this machine, and why the rest does not")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def command(settings: Settings, /, as_json: bool) -> int:
    """Try each rung of the sandbox and say what works here, why the rest does not, and what would help.

    Exit code 69 where --sandbox or LAMINA_SANDBOX asks for a rung that does not work.

    \b
    Examples:
      lamina doctor
    """
    from lamina.sandbox.rungs import RUNTIMES
    from lamina.sandbox.survey import survey
    from lamina.server.places import waiting
    from lamina.version import __version__

    alone = waiting(settings.root)
    findings = survey(settings.root)
    usable = next((f.rung for f in findings if f.works and f.rung not in RUNTIMES), "none")
    wrong = _wrong(settings.rung, findings)
    if settings.rung and wrong is None:
        usable = settings.rung
    facts = {
        "lamina": __version__,
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "user": f"uid {os.geteuid()}",
        "store": str(settings.root) + ("" if settings.root.exists() else " (not made yet)"),
    }
    if as_json:
        json.dump(
            {
                **facts,
                "chosen": None if wrong else usable,
                "error": wrong,
                "kept": [{"host": each.place, "containers": each.containers} for each in alone],
                "rungs": [{"rung": f.rung, "works": f.works, "detail": f.detail, "remedy": f.remedy} for f in findings],
            },
            sys.stdout,
            indent=2,
        )
        print()
        return UNUSABLE if wrong else 0
    for name, value in facts.items():
        print(f"{name + ':':9} {value}")
    print()
    paint = Paint(sys.stdout.isatty() and not settings.no_colour)
    for finding in findings:
        print(f"{paint('green', 'works') if finding.works else paint('red', 'no   ')}  {finding.rung:14} {finding.detail}")
        if finding.remedy:
            print(f"       {'':14} {paint('dim', finding.remedy)}")
    for each in alone:
        count = len(each.containers)
        names = ", ".join(name[:12] for name in each.containers[:5]) + (", …" if count > 5 else "")
        hosts = "".join(f" --host {host}" for host in each.place.split(",")) if each.place else ""
        print(f"\n{count} {'container runs' if count == 1 else 'containers run'} on without an engine: {names}")
        print(f"lamina serve --keep{hosts} takes {'it' if count == 1 else 'them'} over; without --keep they end with that engine")
    if wrong:
        print(f"\nerror: {wrong}", file=sys.stderr)
        return UNUSABLE
    print(f"\nRUN steps use: {usable}" + (" (as asked for)" if settings.rung else ""))
    return 0


def _wrong(asked: str | None, findings: Sequence[Finding]) -> str | None:
    """Why no RUN can start with the rung that --sandbox or LAMINA_SANDBOX asks for."""
    if not asked or asked == "none":
        return None
    found = next((finding for finding in findings if finding.rung == asked), None)
    if found is None:
        return f"--sandbox {asked}: there is no such rung; known: {', '.join(finding.rung for finding in findings)}"
    return None if found.works else f"--sandbox {asked} does not work here: {found.detail}"
