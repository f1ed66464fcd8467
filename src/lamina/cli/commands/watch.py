"""`lamina watch`."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lamina.cli.commands.given_options import given, given_options, handed_on
from lamina.cli.commands.registry_options import registry_options
from lamina.cli.settings import Settings
from lamina.diagnostics.errors import LaminaError
from lamina.oci import typed

if TYPE_CHECKING:
    from lamina.engine.freshness.watching import Looked, Pushed, Round


@click.command(short_help="Look for moved bases on a schedule and when a registry says so")
@click.option("--interval", default="6h", show_default=True, metavar="TIME", help="How often to ask, for example 30m or 1d.")
@click.option("--rebuild", is_flag=True, help="Build again what is outdated.")
@click.option("--push", is_flag=True, help="With --rebuild: push again what was built with --push.")
@click.option("--webhook", metavar="HOST:PORT", help="Listen there for a registry's push notifications, and look at once.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Keep the last rounds in FILE, as JSON.")
@click.option("--once", is_flag=True, help="One round, then end (for cron).")
@given_options
@registry_options
@click.pass_obj
def command(
    settings: Settings,
    /,
    interval: str,
    rebuild: bool,
    push: bool,
    webhook: str | None,
    report: Path | None,
    once: bool,
    secrets: tuple[str, ...],
    ssh: tuple[str, ...],
    args: tuple[str, ...],
    registry_ca: Path | None,
    insecure_registries: tuple[str, ...],
) -> int:
    """Ask the registries about the bases of all images built here: now, then every --interval, and when a push is notified.

    The listener is for loopback; with LAMINA_WEBHOOK_TOKEN set, requests must carry it as a bearer token and other addresses are allowed.
    Ends with SIGTERM or Ctrl-C.

    \b
    Examples:
      lamina watch --interval 1d --rebuild
      lamina watch --webhook 127.0.0.1:8790 --report /var/lib/lamina/watch.json
    """
    from lamina.cli.inputs import BadOption, duration
    from lamina.engine.freshness.watching import Event, Events, Watch

    seconds = duration(interval, "--interval")
    if seconds < 1:
        raise BadOption(f"--interval {interval} is too short", hint="for example 30m")
    if push and not rebuild:
        raise BadOption("--push goes with --rebuild")
    events: Events = queue.Queue()
    arguments = [*(["--rebuild"] if rebuild else []), *(["--push"] if push else [])]
    if registry_ca is not None:
        arguments += ["--registry-ca", str(registry_ca)]
    for host in insecure_registries:
        arguments += ["--insecure-registry", host]
    given(settings, secrets, ssh, args)  # a mistake is told now, not in every round
    words, environment = handed_on(secrets, ssh, args)
    looking = _Looking(settings, [*arguments, *words], environment)
    with ExitStack() as stack:
        if webhook is not None:
            from lamina.engine.freshness.webhook import listening

            where = stack.enter_context(listening(webhook, settings.environment.get("LAMINA_WEBHOOK_TOKEN") or None, events))
            print(f"listening on {where}", file=sys.stderr, flush=True)

        def stop(*_: object) -> None:
            events.put(Event(stop=True))
            looking.stop()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            Watch(looking.look, events, interval=seconds, now=time.time, said=_say, file=report).run(1 if once else 0)
        finally:
            signal.signal(signal.SIGTERM, before)
    return 0


class RoundFailed(LaminaError):
    code = "freshness/round"
    default_exit = 1


class _Looking:
    """One round is `lamina outdated` in a process of its own: it enters its user namespace before any thread, and holds nothing afterwards."""

    def __init__(self, settings: Settings, arguments: list[str], given: dict[str, str]) -> None:
        sandbox = ["--sandbox", settings.rung] if settings.rung else []
        self._command = [sys.executable, "-m", "lamina", "--root", str(settings.root), *sandbox, "outdated", "--json", *arguments]
        self._environment = {name: value for name, value in settings.environment.items() if name != "LAMINA_WEBHOOK_TOKEN"} | given
        self._child: subprocess.Popen[bytes] | None = None

    def look(self, pushed: tuple[Pushed, ...] | None) -> Looked:
        import msgspec

        from lamina.engine.freshness.watching import Looked

        only = [word for each in pushed or () for word in ("--base", str(each))]
        with subprocess.Popen([*self._command, *only], env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
            self._child = child
            out, _ = child.communicate()
            self._child = None
        try:
            return typed.json(out, type=Looked)
        except msgspec.DecodeError:
            raise RoundFailed(f"lamina outdated ended with {child.returncode}") from None

    def stop(self) -> None:
        if self._child is not None:
            self._child.terminate()


def _say(done: Round, found: Looked | None) -> None:
    from lamina.cli.commands.outdated import print_found, print_rebuilt

    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(done.at))
    why = f"{done.because} {', '.join(done.pushed)}".strip()
    print(f"{when} {why}: {done.error or f'{done.asked} bases asked, {len(done.outdated)} images outdated'}", flush=True)
    if found is not None and found.behind:
        print_found(found, everything=False, quiet=False)
    for each in done.rebuilt:
        print_rebuilt(each)
    sys.stdout.flush()
