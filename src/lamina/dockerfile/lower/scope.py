"""Variables: platform arguments, ARGs before FROM, and the environment of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lamina.diagnostics.errors import located
from lamina.dockerfile.instructions import Arg
from lamina.dockerfile.lower.values import Options
from lamina.dockerfile.words import Expander
from lamina.oci.platform import Platform

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = frozenset(name for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for name in (word, word.upper()))

NOT_IN_ENVIRONMENT = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))
"""Arguments that speak to the builder: declared and shown in the history, seen by no command and no word."""


def platform_args(options: Options, target_stage: str) -> dict[str, str]:
    """The predefined arguments that a stage may declare."""

    def of(prefix: str, platform: Platform) -> dict[str, str]:
        return {
            f"{prefix}PLATFORM": str(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}OSVERSION": platform.os_version,
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
        }

    return of("BUILD", options.build_platform) | of("TARGET", options.platform) | {"TARGETSTAGE": target_stage}


def meta_scope(meta: Iterable[Arg], options: Options, predefined: Mapping[str, str], expander: Expander) -> dict[str, str]:
    """Values that FROM lines see, and that a bare ARG of a stage inherits."""
    scope = dict(predefined)
    for name in predefined:
        given = options.args.get(name)
        if given is not None:
            scope[name] = given
    for line in meta:
        with located(line.span):
            for name, default in line.pairs:
                given = options.args.get(name)
                if given is not None:
                    scope[name] = given
                elif default is not None:
                    scope[name] = expander.word(default, scope).result
    return scope


class Environment:
    """NAME=value in order of the last setting; an ARG and an ENV of one name are one variable, the later one holds."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def set(self, name: str, value: str) -> None:
        self.values.pop(name, None)
        self.values[name] = value

    def copy(self) -> Environment:
        return Environment(self.values)

    def lines(self) -> tuple[str, ...]:
        return tuple(f"{name}={value}" for name, value in self.values.items())


def pairs_of(env: Iterable[str]) -> dict[str, str]:
    """`NAME=value` lines of an image config; a later one of the same name holds."""
    found: dict[str, str] = {}
    for line in env:
        name, _, value = line.partition("=")
        found[name] = value
    return found
