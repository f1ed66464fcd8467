"""Control groups of processes that live on: change their limits, put processes that run into one, read what they use."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import msgspec

from lamina.sandbox.limits import Limits

_PERIOD = 100_000  # microseconds of the processor quota


class Usage(msgspec.Struct, frozen=True):
    """Of all processes of a group; -1 for what it does not count."""

    memory: int = -1  # bytes
    limit: int = -1
    pids: int = -1
    pids_limit: int = -1


@functools.cache
def _made_by() -> ModuleType:
    """standalone/limits.py, which makes the groups of runs."""
    place = importlib.util.spec_from_file_location("lamina_groups", Path(__file__).with_name("standalone") / "limits.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@functools.cache
def possible() -> frozenset[str]:
    """Which of memory, cpus and pids a group can hold here; found out by making one."""
    found = set()
    for name, value in (("memory", 1 << 30), ("cpus", 1.0), ("pids", 1024)):
        group = _made_by().Group({name: value, "only_groups": 1})
        if group.folders:
            found.add(name)
        group.close()
    return frozenset(found)


def document(limits: Limits) -> dict[str, float]:
    """For the sandbox's helper: no rlimits where no group can be made."""
    found: dict[str, float] = {name: value for name in ("memory", "cpus", "pids") if (value := getattr(limits, name))}
    return {**found, "only_groups": 1} if found else {}


_FILES = {"memory": ("memory.max", "memory.limit_in_bytes"), "cpus": ("cpu.max", "cpu.cfs_quota_us"), "pids": ("pids.max",)}


def change(folders: Sequence[str], limits: Limits, pids: Iterable[int]) -> tuple[str, ...]:
    """Change the limits that are not 0. Where no group holds one yet a group is made and `pids` are put in: the folders that were made, for
    `remove`. OSError."""
    have = {name for folder in folders for name in os.listdir(folder)}
    missing = {name: 0 if have.intersection(files) else getattr(limits, name) for name, files in _FILES.items()}
    made: tuple[str, ...] = ()
    if any(missing.values()):
        group = _made_by().Group(document(Limits(**missing)))
        made = tuple(group.folders)
        if not made:
            raise OSError(errno.EPERM, "no control group can be made here")
        for folder in made:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    _write(folder, "cgroup.procs", pid)
    if limits.memory and not missing["memory"]:
        if "memory.max" in have:
            _first(folders, "memory.max", limits.memory)
        else:
            # the sum with swap must never be below it
            for name in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
                with contextlib.suppress(OSError) if "memsw" in name else contextlib.nullcontext():
                    _first(folders, name, limits.memory)
    if limits.cpus and not missing["cpus"]:
        quota = int(limits.cpus * _PERIOD)
        _first(folders, *("cpu.max", f"{quota} {_PERIOD}") if "cpu.max" in have else ("cpu.cfs_quota_us", quota))
    if limits.pids and not missing["pids"]:
        _first(folders, "pids.max", limits.pids)
    return made


def usage(folders: Sequence[str]) -> Usage:
    return Usage(
        _number(folders, "memory.current", "memory.usage_in_bytes"),
        _number(folders, "memory.max", "memory.limit_in_bytes"),
        _number(folders, "pids.current"),
        _number(folders, "pids.max"),
    )


def remove(folders: Sequence[str]) -> None:
    """Groups that `change` made; those of a start go with its helper."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _first(folders: Sequence[str], name: str, value: object) -> None:
    for folder in folders:
        if os.path.exists(f"{folder}/{name}"):
            _write(folder, name, value)
            return
    raise FileNotFoundError(errno.ENOENT, f"no control group has {name}")


def _write(folder: str, name: str, value: object) -> None:
    descriptor = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def _number(folders: Sequence[str], *names: str) -> int:
    for folder in folders:
        for name in names:
            with contextlib.suppress(OSError, ValueError), open(f"{folder}/{name}") as file:
                return int(file.read())
    return -1
