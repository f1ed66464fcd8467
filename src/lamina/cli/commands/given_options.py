"""What `outdated --rebuild` and `watch --rebuild` are given because no store keeps it: secrets, ssh, build arguments that look like secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.engine.freshness.recipe import Given

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--secret", "secrets", multiple=True, metavar="id=ID[,src=FILE|,env=NAME]", help="With --rebuild: a secret that builds had."
    ),
    click.option("--ssh", "ssh", multiple=True, metavar="ID[=SOCKET|KEY]", help="With --rebuild: an ssh agent that builds had."),
    click.option(
        "--build-arg", "args", multiple=True, metavar="NAME[=VALUE]", help="With --rebuild: an ARG whose value looked like a secret."
    ),
]


def given_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def given(settings: Settings, secrets: tuple[str, ...], ssh: tuple[str, ...], args: tuple[str, ...]) -> Given:
    """BadOption for what is no such thing, or is not here."""
    from lamina.cli import inputs
    from lamina.engine.freshness.recipe import Given

    values = {name: value for name, value in inputs.build_args(args, settings.environment).items() if value is not None}
    return Given(tuple(inputs.secret(item, settings.environment) for item in secrets), inputs.ssh(ssh, settings.environment), values)


def handed_on(secrets: tuple[str, ...], ssh: tuple[str, ...], args: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """(argv, environment) for a process that is given the same. Values of arguments go by the environment: anybody may read an argv."""
    words = [word for option, values in (("--secret", secrets), ("--ssh", ssh)) for value in values for word in (option, value)]
    environment: dict[str, str] = {}
    for value in args:
        name, equals, rest = value.partition("=")
        words += ["--build-arg", name]
        if equals:
            environment[name] = rest
    return words, environment
