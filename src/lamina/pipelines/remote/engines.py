"""What stands behind --engine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.pipelines.remote.cluster import Cluster

_MOST = 256
_OPTIONS = ("memory", "cpus", "label")
_FORMS = "dask://SCHEDULER:8786, ray://HEAD:10001 or processes://N"


class BadEngine(LaminaError):
    """--engine that cannot be understood."""

    code = "pipeline/bad-engine"
    default_exit = 2


class ProcessesSpec(msgspec.Struct, frozen=True):
    """`processes://N,memory=MB,cpus=N,label=NAME`; options of each worker."""

    count: int
    memory: int = 0
    cpus: float = 0.0
    labels: frozenset[str] = frozenset()


def check_engine(text: str) -> str:
    """The kind. BadEngine; nothing is asked of anybody."""
    kind, colon, rest = text.partition("://")
    if colon and rest and kind in ("dask", "dask+tls", "ray"):
        return kind
    if colon and kind == "processes":
        parse_processes(rest)
        return kind
    near = nearest(kind, ("dask", "ray", "processes")) if colon else None
    raise BadEngine(f"--engine {text!r} is no cluster", hint=f"did you mean {near}://…?" if near else f"clusters are {_FORMS}")


def parse_processes(rest: str) -> ProcessesSpec:
    """BadEngine."""
    count, *pairs = rest.split(",")
    if not re.fullmatch("[0-9]{1,3}", count) or not 0 < int(count) <= _MOST:
        raise BadEngine(f"--engine processes://{rest}: {count!r} is no number of workers", hint=f"from 1 to {_MOST}: processes://4")
    memory, cpus, labels = 0, 0.0, set()
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name == "memory" and re.fullmatch("[1-9][0-9]{0,8}", value):
            memory = int(value)
        elif name == "cpus" and re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", value) and float(value):
            cpus = float(value)
        elif name == "label" and value:
            labels.add(value)
        else:
            raise BadEngine(
                f"--engine processes://{rest}: {pair!r} is not understood", hint=f"options are {', '.join(_OPTIONS)}: memory=8192 (MB)"
            )
    return ProcessesSpec(int(count), memory, cpus, frozenset(labels))


def open_engine(text: str, folder: Path, rung: str | None) -> Cluster:
    """`folder`: where workers that are processes of this machine have their stores. BadEngine, or what the cluster's own library makes of it."""
    kind = check_engine(text)
    if kind in ("dask", "dask+tls"):
        from lamina.pipelines.remote.daskcluster import open_dask

        return open_dask(text)
    if kind == "ray":
        from lamina.pipelines.remote.raycluster import open_ray

        return open_ray(text)
    from lamina.pipelines.remote.processes import Processes

    spec = parse_processes(text.partition("://")[2])
    sandbox = ("--sandbox", rung) if rung else ()
    commands = [
        (sys.executable, "-m", "lamina", "--root", str(folder / str(number)), *sandbox, "pipeline", "step-job")
        for number in range(1, spec.count + 1)
    ]
    return Processes(commands, memory=spec.memory, cpus=spec.cpus, labels=spec.labels)
