"""registries.toml: mirrors, hosts without TLS, foreign layers. Small on purpose; everything else is docker's or a command-line option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lamina.oci import typed
from lamina.registry.errors import RegistryError

_HOST = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(?::[0-9]{1,5})?")
_PLACE = re.compile(_HOST.pattern + r"(?:/[a-z0-9][a-z0-9._/-]*)?")


class BadRegistrySettings(RegistryError):
    code = "registry/settings"
    default_exit = 78


class RegistrySettings(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """`mirrors`: registry -> HOST[:PORT][/PREFIX], asked in this order before it. `insecure`: hosts without TLS."""

    mirrors: dict[str, tuple[str, ...]] = {}
    insecure: tuple[str, ...] = ()
    foreign_layers: bool = False


def settings_file(environment: Mapping[str, str]) -> Path:
    """$LAMINA_REGISTRIES, else $XDG_CONFIG_HOME/lamina/registries.toml, else ~/.config/lamina/registries.toml."""
    if environment.get("LAMINA_REGISTRIES"):
        return Path(environment["LAMINA_REGISTRIES"])
    base = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or "/root", ".config")
    return Path(base, "lamina", "registries.toml")


def read_settings(file: Path) -> RegistrySettings:
    """The defaults where there is no file. Raises BadRegistrySettings with the place of the mistake."""
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return RegistrySettings()
    except OSError as error:
        raise BadRegistrySettings(f"cannot read {file}: {error.strerror}") from error
    import tomllib

    try:
        found = typed.convert(tomllib.loads(raw.decode()), RegistrySettings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise BadRegistrySettings(
            f"{file}: {error}", hint="known: mirrors, insecure, foreign-layers (docs/how-to/registries.md)"
        ) from error
    for name in (*found.mirrors, *found.insecure):
        if not _HOST.fullmatch(name):
            raise BadRegistrySettings(f"{file}: {name!r} is not HOST or HOST:PORT")
    for mirror in (each for several in found.mirrors.values() for each in several):
        if not _PLACE.fullmatch(mirror):
            raise BadRegistrySettings(f"{file}: the mirror {mirror!r} is not HOST[:PORT][/PREFIX]", hint="without https://")
    return found
