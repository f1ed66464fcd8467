"""The command line's door: fast paths, lazy commands, and the one place where an error becomes text and an exit code."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

COMMANDS = {
    # name -> (module, attribute, one line for the overview; kept here so that `lamina --help` imports no command)
    "build": ("build", "Build an image from a Dockerfile"),
    "plan": ("plan", "Say what a build would do and why; nothing runs"),
    "why": ("why", "Give the reason for each step of an earlier build"),
    "replay": ("replay", "Say what the cache would have done over the last commits"),
    "diff": ("diff", "Compare two builds step by step"),
    "cache": ("cache", "List, measure, forget and prune cache records"),
    "images": ("images", "List images"),
    "history": ("history", "Show the steps that made an image"),
    "inspect": ("inspect", "Show an image's config and manifest"),
    "tag": ("tag", "Give an image another name"),
    "rmi": ("rmi", "Remove images"),
    "pull": ("pull", "Fetch images from registries"),
    "push": ("push", "Send images to registries"),
    "copy": ("copy", "Copy an image between registries, layouts and archives"),
    "login": ("login", "Log in to a registry"),
    "logout": ("logout", "Forget a login"),
    "outdated": ("outdated", "List images whose bases or sources have moved, and rebuild them"),
    "sbom": ("sbom", "List the packages in an image"),
    "watch": ("watch", "Look for moved bases on a schedule and when a registry says so"),
    "rebase": ("rebase", "Put an image's layers onto a newer base without running anything"),
    "lock": ("lock", "Write the digests of everything that a build uses to lamina.lock"),
    "save": ("save", "Write images to an archive"),
    "load": ("load", "Read images from an archive"),
    "import": ("import_", "Make an image from a root file system"),
    "lint": ("lint", "Check a Dockerfile without building it"),
    "pipeline": ("pipeline", "Run, plan and check bitbucket-pipelines.yml"),
    "ci-cache": ("ci_cache", "A CI service's cache folder that merges instead of overwriting"),
    "serve": ("serve", "Answer docker's clients: the Docker Engine API over a socket"),
    "check": ("check", "Prove that the store is sound, and repair it"),
    "doctor": ("doctor", "Say what works on this machine, and why the rest does not"),
    "completion": ("completion", "Print the completion script of a shell"),
    "version": ("version", "Print the version"),
}


def main(argv: list[str] | None = None) -> None:
    """Entry point of `lamina` and `python -m lamina`; ends the process. With `argv` given, by SystemExit."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"], ["version"]):
        from lamina.version import __version__

        try:
            print(f"lamina {__version__}", flush=True)
        except OSError as error:
            _say(f"error: {error.strerror or error}")
            os._exit(74)
        sys.exit(0)
    if argv is None:
        import gc

        _streams()
        gc.set_threshold(50_000)  # imports alone would start it dozens of times, and find nothing
        sys.setswitchinterval(0.0005)  # who comes back from the disk waits so long for a thread that computes: 5 ms by default
        import lamina
        from lamina.cli.modules import install

        install(lamina)
    try:
        code = run(arguments)
    except KeyboardInterrupt:  # while modules were loaded
        _say("lamina: interrupted")
        code = 130
    if argv is None:
        _leave(code)
    sys.exit(code)


def _streams() -> None:
    """Standard streams that are closed become the null device: else the next file has their number, and a program's output lands in it. (A closed
    `sys.stdin` stays None: who wants to read it says so.) Letters that the locale's code does not have are shown by their number, not an error."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        number = os.open(os.devnull, os.O_RDWR)
        while number < 3:
            os.set_inheritable(number, True)
            number = os.open(os.devnull, os.O_RDWR)
        os.close(number)
        if sys.stdout is None:
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
        if sys.stderr is None:
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stdout.errors != "backslashreplace" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    """A line on standard error; nothing where that cannot be written: the exit code is left."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what is buffered still would fail again at the end


def _where() -> str:
    """What to say of an error without a name: whether it is that this folder was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return ": the folder that this command was started in is gone"
    return ""


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter apart, which costs a tenth of a short build. What others registered for the end is
    done; where a thread still works it is waited for."""
    import atexit

    if "threading" in sys.modules:
        import threading

        if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
            sys.exit(code)
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads any more
        pass
    os._exit(code)


def run(arguments: list[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run one command line; returns the exit code. Never raises but for a bug under --debug. `environment`: what the command believes to be its own, where the
    process must not have it (whatever it starts would)."""
    if arguments[:1] == ["build"]:
        from lamina.cli.unchanged import answer

        code = answer(arguments, os.environ)
        if code is not None:
            return code
    from lamina.diagnostics.errors import LaminaError

    debug = "--debug" in arguments or bool(os.environ.get("LAMINA_DEBUG"))
    try:
        result = _plain_build(arguments, environment) if arguments[:1] == ["build"] else None
        if result is None:
            result = _by_click(arguments, environment)
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        _say("lamina: interrupted")
        return 130
    except LaminaError as error:
        if debug:
            import traceback

            traceback.print_exc()
        from lamina.diagnostics.render import render_error

        _say(render_error(error, colour=_colour()))
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except RecursionError:
        if debug:
            raise
        _say(
            "error: something is nested too deeply\nhint: folders may be as deep as a path of 4095 bytes; lists and texts in each other some 900 levels"
        )
        return 65
    except OSError as error:
        if debug:
            raise
        place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else _where()
        _say(f"error: {error.strerror or error}{place}")
        return 74
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MemoryError) or "can't start new thread" in str(error):
            _say(
                "error: no memory, or no more threads for this user\nhint: `ulimit -a` shows the limits here; in a container its memory and pids count too"
            )
            return 74
        _say(
            f"error: a bug in lamina: {type(error).__name__}: {error}\nhint: run it as `lamina --debug …` for the traceback, and report it"
        )
        return 70


def _plain_build(arguments: list[str], environment: Mapping[str, str]) -> int | None:
    """A build whose command line needs no click. None: it does. What click would take from the environment is the process's own."""
    from lamina.cli import building
    from lamina.cli.options import parse

    given = None if "_LAMINA_COMPLETE" in os.environ else parse(building.OPTIONS, arguments[1:], os.environ)
    if given is None:
        return None
    from pathlib import Path

    from lamina.cli.settings import Settings

    root, rung, limits = (os.environ.get(name) or None for name in ("LAMINA_ROOT", "LAMINA_SANDBOX", "LAMINA_LIMIT"))
    settings = Settings.from_environment(
        environment, root=Path(root) if root else None, rung=rung, debug=False, arguments=tuple(arguments), limits=limits
    )
    return building.build(settings, **given)


def _by_click(arguments: list[str], environment: Mapping[str, str]) -> int:
    import click

    from lamina.cli.group import cli

    streams = sys.stdout, sys.stderr
    try:
        result = cli.main(arguments, prog_name="lamina", standalone_mode=False, obj=(tuple(arguments), environment))
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except SystemExit:
        if sys.stdout is streams[0]:
            raise
        sys.stdout, sys.stderr = streams  # click's answer to a pipe that nobody reads: streams that are quiet, and 1
        raise BrokenPipeError from None
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


def _colour() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
