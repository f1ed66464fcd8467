"""`python -m lamina.testing.writers`: trials from the command line, a row for each."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lamina.testing import bases, machines
from lamina.testing.writers import places
from lamina.testing.writers.trial import Result, Settings, Trial

_HEAD = ("backend", "completed", "killed", "cut off", "restart", "verify", "completed work, second round", "others, after a retry", "sound")

_LINES = 8  # of complaints for each backend


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 where something was lost, 2 where this machine cannot do it."""
    parser = argparse.ArgumentParser(prog="python -m lamina.testing.writers", description=__doc__)
    parser.add_argument(
        "--backend", choices=[*places.BACKENDS, "all", "buildkit"], default="all", help="buildkit: the same writers with docker's BuildKit"
    )
    parser.add_argument("--writers", type=int, default=32)
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--restart", action="store_true", help="kill the server in the middle and start it again")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--size", type=int, default=20_000, help="bytes of each file of an image")
    given = parser.parse_args(arguments)
    if not (1 <= given.machines <= 200 and 1 <= given.writers <= 500 and 0 <= given.kills <= given.writers):
        parser.error("at most 200 machines, 500 writers, as many kills as writers")
    refused = machines.why_not() or bases.why_not()
    if refused:
        print(f"no trial here: {refused}", file=sys.stderr)
        return 2
    if given.backend == "buildkit":
        return _compare(given.writers, given.machines)
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    results: list[Result] = []
    for backend in places.BACKENDS if given.backend == "all" else (given.backend,):
        missing = places.why_not(backend)
        if missing:
            print(f"{backend}: left out, {missing}", file=sys.stderr)
            if given.backend != "all":
                return 2
            continue
        settings = Settings(backend, given.writers, given.machines, given.kills, given.restart, seed, given.size)
        with tempfile.TemporaryDirectory(prefix="lamina-writers-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
            results.append(Trial(settings, Path(folder), lambda text: print(text, file=sys.stderr, flush=True)).run())
    print(f"{given.writers} writers, {given.machines} machines, seed {seed}\n{table(results)}")
    for result in results:
        lines = [*result.warnings, *result.verified, *result.verified_again, *result.trouble]
        for line in lines if len(lines) <= _LINES else [*lines[:_LINES], f"and {len(lines) - _LINES} more"]:
            print(f"{result.settings.backend}: {line}")
    return 0 if all(result.sound for result in results) else 1


def _compare(writers: int, number: int) -> int:
    from lamina.testing.writers import buildkit

    refused = places.why_not("oci") or places.why_not("http") or buildkit.why_not("docker")
    if refused:
        print(f"no comparison here: {refused}", file=sys.stderr)
        return 2
    found: dict[buildkit.Way, buildkit.Comparison] = {}
    for way in buildkit.WAYS:
        missing = buildkit.why_not(way)
        if missing:
            print(f"buildkit {way}: left out, {missing}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="lamina-writers-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
            found[way] = buildkit.compare(Path(folder) / "trial", way, writers, number)
    print("\n".join(buildkit.reports(found)))
    return 0


def table(results: Sequence[Result]) -> str:
    """Columns, for reading."""
    rows = [_HEAD, *(_row(result) for result in results)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _row(result: Result) -> tuple[str, ...]:
    restart = "yes" if result.restarted else ("no" if result.settings.backend != "dir" else "no server")
    problems = len(result.verified) + len(result.verified_again)
    return (
        result.settings.backend,
        str(result.count("completed")),
        str(result.count("killed")),
        str(result.count("cut off")),
        restart,
        f"{problems} problems" if problems else "clean",
        str(result.completed),
        str(result.again),
        "yes" if result.sound else "NO",
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that servers and namespaces go too
    sys.exit(main(sys.argv[1:]))
