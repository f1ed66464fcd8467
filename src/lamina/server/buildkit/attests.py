"""Attestations that a BuildKit client asks for (`attest:provenance`, `attest:sbom`): what is attached, and of what is not, why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from lamina.server.buildkit.asked import Export, fields
from lamina.server.errors import BadRequest

_CARRIES = "type=registry, type=image,push=true and type=oci carry attestations"
_FOREIGN = ("builder-id", "filename", "reproducible")  # of BuildKit's provenance, without a meaning here


class Attests(msgspec.Struct, frozen=True):
    """`notices` are for the build's user."""

    provenance: Literal["min", "max"] | None = None
    sbom: tuple[Literal["spdx"], ...] = ()
    notices: tuple[str, ...] = ()


def attests(attrs: Mapping[str, str], exports: Sequence[Export]) -> Attests:
    """`attrs` is the front end's map. BadRequest for a mode that is not known."""
    notices: list[str] = []
    provenance: Literal["min", "max"] | None = None
    wanted: list[str] = []
    values = _values(attrs.get("attest:provenance"))
    if values is not None:
        mode = values.get("mode", "min")
        if mode not in ("min", "max"):
            raise BadRequest(f"--provenance mode={mode[:40]} is not known: min and max are")
        provenance = "max" if mode == "max" else "min"
        if not _true(values.get("inline-only", "false")):  # else the client asked, not its user: buildx does so for every build
            wanted.append("--provenance")
        if values.get("version", "v1") != "v1":
            notices.append(f"--provenance version={values['version'][:40]}: SLSA v1 is written")
        notices += [f"--provenance {name}= has no meaning here" for name in _FOREIGN if name in values]
    sbom: tuple[Literal["spdx"], ...] = ()
    values = _values(attrs.get("attest:sbom"))
    if values is not None:
        sbom = ("spdx",)
        wanted.append("--sbom")
        if values.get("generator"):
            notices.append(f"--sbom generator={values['generator'][:100]} is not run: lamina reads the packages itself")
    for name in attrs:
        if name.startswith("attest:") and name not in ("attest:provenance", "attest:sbom"):
            notices.append(f"--attest type={name.removeprefix('attest:')[:40]} is left out: provenance and sbom are known here")
    without = list(dict.fromkeys(_title(export) for export in exports if not _carries(export)))
    if wanted and (without or not any(map(_carries, exports))):
        what = " and ".join(wanted)
        notices.append(f"{what} left out of {', '.join(without)}: {_CARRIES}" if without else f"{what} left out: {_CARRIES}")
    return Attests(provenance, sbom, tuple(notices))


def _values(text: str | None) -> dict[str, str] | None:
    """None when it is not asked for."""
    if text is None:
        return None
    found = {}
    for part in fields(text, "attest"):
        name, _, value = part.partition("=")
        found[name.strip().lower()] = value.strip()
    return None if "disabled" in found and _true(found["disabled"]) else found


def _true(text: str) -> bool:
    return text.lower() in ("", "1", "t", "true")


def _carries(export: Export) -> bool:
    return export.pushes or export.type == "oci"


def _title(export: Export) -> str:
    return f"type={export.type}" if export.type not in ("moby", "") else "the image that is kept here"
