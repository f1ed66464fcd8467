"""What the environment says, read once at the door and handed on as values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from lamina.cli.unchanged import PROXIES, store_root


class Settings(msgspec.Struct, frozen=True):
    """`root` is where the store lies; `cut_off` is False with LAMINA_CUT_OFF=off; `no_colour` is NO_COLOR."""

    root: Path
    rung: str | None
    debug: bool
    cut_off: bool
    no_colour: bool
    proxies: Mapping[str, str]
    arguments: tuple[str, ...]  # the whole command line
    limits: str | None  # of each RUN, as --limit has it
    environment: Mapping[str, str]  # for --build-arg NAME and --secret env=

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str],
        *,
        root: Path | None,
        rung: str | None,
        debug: bool,
        arguments: tuple[str, ...] = (),
        limits: str | None = None,
    ) -> Settings:
        if root is None:
            root = Path(store_root(environment))
        switch = environment.get("LAMINA_CUT_OFF", "on").lower()
        if switch not in ("on", "off", "1", "0", ""):
            from lamina.cli.inputs import BadOption

            raise BadOption(f"LAMINA_CUT_OFF is {switch!r}; it must be on or off")
        return cls(
            root=root.absolute(),
            rung=rung,
            limits=limits,
            debug=debug,
            cut_off=switch not in ("off", "0"),
            no_colour=bool(environment.get("NO_COLOR")),
            proxies={name: environment[name] for name in PROXIES if name in environment},
            environment=environment,
            arguments=arguments,
        )
