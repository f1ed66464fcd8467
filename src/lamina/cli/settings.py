"""What the environment says, read once at the door and handed on as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

PROXY_NAMES = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
)


class Settings(msgspec.Struct, frozen=True):
    """`root` is where the store lies; `cut_off` is False with LAMINA_CUT_OFF=off; `no_colour` is NO_COLOR."""

    root: Path
    rung: str | None
    debug: bool
    cut_off: bool
    no_colour: bool
    proxies: Mapping[str, str]
    environment: Mapping[str, str]  # for --build-arg NAME and --secret env=

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, root: Path | None, rung: str | None, debug: bool) -> Settings:
        if root is None:
            base = environment.get("XDG_DATA_HOME")
            root = Path(base) if base and os.path.isabs(base) else Path(environment.get("HOME") or "/root", ".local", "share")
            root = root / "lamina"
        switch = environment.get("LAMINA_CUT_OFF", "on").lower()
        if switch not in ("on", "off", "1", "0", ""):
            raise click.UsageError(f"LAMINA_CUT_OFF is {switch!r}; it must be on or off")
        return cls(
            root=root.absolute(),
            rung=rung,
            debug=debug,
            cut_off=switch not in ("off", "0"),
            no_colour=bool(environment.get("NO_COLOR")),
            proxies={name: environment[name] for name in PROXY_NAMES if name in environment},
            environment=environment,
        )
