"""The options that `build` and `plan` share, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lamina.cli import inputs
from lamina.cli.commands.mount_options import mount_option
from lamina.cli.commands.registry_options import REGISTRY
from lamina.cli.options import Option
from lamina.cli.settings import Settings
from lamina.engine.request import BuildRequest, Output, Selector

if TYPE_CHECKING:
    from lamina.engine.freshness.lockfile import Lock

F = TypeVar("F", bound=Callable[..., Any])

SHARED = (
    Option(("-f", "--file"), "file", "The Dockerfile (default: PATH/Dockerfile; - is standard input).", metavar="FILE"),
    Option(("--target",), "target", "Build this stage (name or number) instead of the last.", metavar="STAGE"),
    Option(("--build-arg",), "args", "Give an ARG a value; without one, the environment's.", many=True, metavar="NAME[=VALUE]"),
    Option(
        ("--build-context",),
        "contexts",
        "DIR, URL, oci-layout://PATH or docker-image://REF under a name.",
        many=True,
        metavar="NAME=PLACE",
    ),
    Option(("--secret",), "secrets", "A secret for RUN --mount=type=secret.", many=True, metavar="id=ID[,src=FILE|,env=NAME]"),
    Option(("--ssh",), "ssh", "An ssh agent for RUN --mount=type=ssh.", many=True, metavar="ID[=SOCKET|KEY]"),
    Option(("--platform",), "platforms", "Build for these platforms (default: this machine's).", metavar="OS/ARCH[,...]"),
    Option(("--label",), "labels", "Add a label to the image.", many=True, metavar="NAME=VALUE"),
    Option(("--pull",), "pull", "Ask the registries for newer base images.", kind="flag"),
    Option(
        ("--locked",), "locked", "Take bases, URLs and repositories as PATH/lamina.lock says; what is not in it is an error.", kind="flag"
    ),
    *REGISTRY,
    Option(("--no-cache",), "no_cache", "Run every RUN, COPY and ADD again.", kind="flag"),
    Option(("--no-cache-filter",), "no_cache_filter", "The same for these stages.", many=True, metavar="STAGE[,STAGE]"),
    Option(
        ("--refresh",),
        "refresh",
        "Run again: STAGE, STAGE:N (as in [stage N/M]), or the beginning of an instruction.",
        many=True,
        metavar="SELECTOR",
    ),
    Option(("--max-age",), "max_age", "Run again what is older, for example deps=12h.", many=True, metavar="SELECTOR=AGE"),
    Option(("--network",), "network", "Network of RUN steps.", choices=("default", "host", "none"), default="default"),
    Option(("--add-host",), "hosts", "An entry for /etc/hosts of RUN steps.", many=True, metavar="HOST:ADDRESS"),
    Option(("--shm-size",), "shm_size", "Size of /dev/shm, for example 128m.", metavar="SIZE"),
    Option(("--ulimit",), "ulimits", "A resource limit of RUN steps.", many=True, metavar="NAME=SOFT[:HARD]"),
    Option(
        ("--allow",),
        "allow",
        "Permit RUN --security=insecure (security.insecure); network.host is always permitted.",
        many=True,
        choices=("security.insecure", "network.host"),
    ),
    Option(("--exact-modes",), "exact_modes", "Let group-write bits of context files count, as docker does.", kind="flag"),
    Option(("--arg-scope",), "arg_scope", "Which RUNs an ARG counts for.", choices=("declared", "named"), default="declared"),
    Option(
        ("--reproducible",),
        "reproducible",
        "Every time in the image is SOURCE_DATE_EPOCH's (0 without it), as it is when that is set.",
        kind="flag",
    ),
    Option(("-j", "--jobs"), "jobs", "Steps that may run at once.", kind="number", metavar="N"),
    Option(
        ("--cache-from",),
        "cache_from",
        "Read this shared cache: dir:PATH, oci://REPOSITORY, s3://BUCKET/PREFIX.",
        many=True,
        metavar="PLACE[,OPTION=…]",
    ),
    Option(("--cache-to",), "cache_to", "Write to this shared cache what the build found and made.", many=True, metavar="PLACE[,OPTION=…]"),
    mount_option("Share RUN --mount=type=cache through --cache-from and --cache-to; merge=union (the default) or newest."),
    Option(("-q", "--quiet"), "quiet", "Print nothing but the result.", kind="flag"),
)


def shared_options(function: F) -> F:
    from lamina.cli.commands.declaring import declared

    return declared(SHARED)(function)


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
