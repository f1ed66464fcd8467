"""The options that `build` and `plan` share, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lamina.cli import inputs
from lamina.cli.commands.mount_options import mount_option
from lamina.cli.commands.registry_options import REGISTRY_OPTIONS
from lamina.cli.settings import Settings
from lamina.engine.request import BuildRequest, Output, Selector

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = [
    click.option("-f", "--file", "file", metavar="FILE", help="The Dockerfile (default: PATH/Dockerfile; - is standard input)."),
    click.option("--target", metavar="STAGE", help="Build this stage (name or number) instead of the last."),
    click.option("--build-arg", "args", multiple=True, metavar="NAME[=VALUE]", help="Give an ARG a value; without one, the environment's."),
    click.option(
        "--build-context",
        "contexts",
        multiple=True,
        metavar="NAME=PLACE",
        help="DIR, URL, oci-layout://PATH or docker-image://REF under a name.",
    ),
    click.option("--secret", "secrets", multiple=True, metavar="id=ID[,src=FILE|,env=NAME]", help="A secret for RUN --mount=type=secret."),
    click.option("--ssh", "ssh", multiple=True, metavar="ID[=SOCKET|KEY]", help="An ssh agent for RUN --mount=type=ssh."),
    click.option("--platform", "platforms", metavar="OS/ARCH[,...]", help="Build for these platforms (default: this machine's)."),
    click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Add a label to the image."),
    click.option("--pull", is_flag=True, help="Ask the registries for newer base images."),
    click.option(
        "--locked", is_flag=True, help="Take bases, URLs and repositories as PATH/lamina.lock says; what is not in it is an error."
    ),
    *REGISTRY_OPTIONS,
    click.option("--no-cache", is_flag=True, help="Run every RUN, COPY and ADD again."),
    click.option("--no-cache-filter", "no_cache_filter", multiple=True, metavar="STAGE[,STAGE]", help="The same for these stages."),
    click.option(
        "--refresh",
        multiple=True,
        metavar="SELECTOR",
        help="Run again: STAGE, STAGE:N (as in [stage N/M]), or the beginning of an instruction.",
    ),
    click.option("--max-age", "max_age", multiple=True, metavar="SELECTOR=AGE", help="Run again what is older, for example deps=12h."),
    click.option(
        "--network", type=click.Choice(["default", "host", "none"]), default="default", show_default=True, help="Network of RUN steps."
    ),
    click.option("--add-host", "hosts", multiple=True, metavar="HOST:ADDRESS", help="An entry for /etc/hosts of RUN steps."),
    click.option("--shm-size", metavar="SIZE", help="Size of /dev/shm, for example 128m."),
    click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="A resource limit of RUN steps."),
    click.option(
        "--allow",
        multiple=True,
        type=click.Choice(["security.insecure", "network.host"]),
        help="Permit RUN --security=insecure (security.insecure); network.host is always permitted.",
    ),
    click.option("--exact-modes", is_flag=True, help="Let group-write bits of context files count, as docker does."),
    click.option(
        "--arg-scope", type=click.Choice(["declared", "named"]), default="declared", show_default=True, help="Which RUNs an ARG counts for."
    ),
    click.option(
        "--reproducible", is_flag=True, help="Every time in the image is SOURCE_DATE_EPOCH's (0 without it), as it is when that is set."
    ),
    click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Steps that may run at once."),
    click.option(
        "--cache-from",
        multiple=True,
        metavar="PLACE[,OPTION=…]",
        help="Read this shared cache: dir:PATH, oci://REPOSITORY, s3://BUCKET/PREFIX.",
    ),
    click.option("--cache-to", multiple=True, metavar="PLACE[,OPTION=…]", help="Write to this shared cache what the build found and made."),
    mount_option("Share RUN --mount=type=cache through --cache-from and --cache-to; merge=union (the default) or newest."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but the result."),
]


def shared_options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def request_from(
    settings: Settings, path: str, options: dict[str, Any], *, tags: tuple[str, ...] = (), outputs: tuple[Output, ...] = ()
) -> BuildRequest:
    """The frozen request behind a command line. Raises BadOption."""
    from lamina.oci.platform import Platform

    platforms = tuple(Platform.parse(item) for item in (options["platforms"] or "").split(",") if item)
    context = inputs.context(path, options["file"])
    args = inputs.build_args(options["args"], settings.environment)
    epoch = inputs.epoch(args, settings.environment, reproducible=options["reproducible"])
    if epoch is not None:
        args["SOURCE_DATE_EPOCH"] = str(epoch)
    return BuildRequest(
        context=context.folder,
        dockerfile_name=context.name,
        dockerfile_text=context.text,
        dockerfile_path=context.path,
        ignore_text=context.ignore,
        ignore_name=context.ignore_name,
        incoming=context.incoming,
        lock=_lock(context.folder) if options["locked"] else None,
        target=options["target"] or None,
        args=args,
        epoch=epoch,
        platforms=platforms,
        tags=tags,
        labels=inputs.pairs(options["labels"], "--label"),
        named_contexts=inputs.pairs(options["contexts"], "--build-context"),
        secrets=tuple(inputs.secret(item, settings.environment) for item in options["secrets"]),
        ssh=inputs.ssh(options["ssh"], settings.environment),
        outputs=outputs,
        no_cache=options["no_cache"],
        no_cache_filter=tuple(stage for item in options["no_cache_filter"] for stage in item.split(",") if stage),
        refresh=tuple(Selector(item) for item in options["refresh"]),
        max_age=tuple(inputs.max_age(item) for item in options["max_age"]),
        pull=options["pull"],
        network=options["network"],
        extra_hosts=tuple(inputs.add_host(item) for item in options["hosts"]),
        shm_size=inputs.size(options["shm_size"], "--shm-size") if options["shm_size"] else 0,
        ulimits=tuple(inputs.ulimit(item) for item in options["ulimits"]),
        allow_insecure="security.insecure" in options["allow"],
        exact_modes=options["exact_modes"],
        arg_scope=options["arg_scope"],
        cut_off=settings.cut_off,
        cache_from=tuple(options["cache_from"]),
        cache_to=tuple(options["cache_to"]),
        cache_mounts=_mounts(options),
        jobs=options["jobs"] or 0,
        project=settings.environment.get("LAMINA_PROJECT", ""),
    )


def _mounts(options: dict[str, Any]) -> tuple[str, ...]:
    """BadOption where no cache is named, BadCacheSpec for a rule that is none."""
    given: tuple[str, ...] = options["cache_mounts"]
    if given:
        from lamina.engine.mountsharing import parse_rule

        for text in given:
            parse_rule(text)
        if not (options["cache_from"] or options["cache_to"]):
            raise inputs.BadOption("--cache-mounts needs a shared cache", hint="--cache-from PLACE, --cache-to PLACE, or both")
    return given


def _lock(folder: Path) -> Lock:
    from lamina.engine.freshness.lockfile import NAME, read_lock

    return read_lock(folder / NAME)
