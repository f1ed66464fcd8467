"""How much a RUN may use: `memory=512m,cpus=1.5,pids=200`."""

from __future__ import annotations

import math

import msgspec

from lamina.diagnostics.errors import LaminaError, nearest

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class BadLimit(LaminaError):
    code = "sandbox/limit"
    default_exit = 2


class Limits(msgspec.Struct, frozen=True):
    """Of each RUN, 0 for none. Held by a control group where one can be made (all of the RUN's processes together), else by rlimits
    (each process by itself)."""

    memory: int = 0  # bytes, swap included
    cpus: float = 0.0
    pids: int = 0


def parse(text: str) -> Limits:
    """BadLimit."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in Limits.__struct_fields__ or not equals:
            near = nearest(name, Limits.__struct_fields__)
            raise BadLimit(
                f"unknown limit {part.strip()!r}", hint=f"did you mean {near}=?" if near else "limits: memory=512m,cpus=1.5,pids=200"
            )
        value = value.strip().lower()
        digits = value.rstrip("bkmgt") if name == "memory" else value
        unit = value[len(digits) :].removesuffix("b") if len(value) - len(digits) > 1 else value[len(digits) :]
        try:
            number = float(digits) * _UNITS[unit]
        except (ValueError, KeyError):
            number = 0
        if not number > 0 or not math.isfinite(number):
            raise BadLimit(f"limit {name}={value}: it must be a number above 0", hint="for example memory=512m,cpus=1.5,pids=200")
        found[name] = number
    return Limits(int(found.get("memory", 0)), found.get("cpus", 0.0), int(found.get("pids", 0)))
