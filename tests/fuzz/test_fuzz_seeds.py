"""Each kept seed, and some thousand simple damages of it, through its fuzz target: nothing worse than one clear line.

A finding of `make fuzz` becomes a file in seeds/TARGET, named after what it is; some targets take the seeds of another.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError

_HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("lamina_fuzz_targets", _HERE / "targets.py")
assert _spec is not None
assert _spec.loader is not None
fuzz = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = fuzz
_spec.loader.exec_module(fuzz)

DAMAGES = 400  # of each target, on a fixed choice: seconds in all


def seeds(name: str) -> list[Path]:
    return sorted((_HERE / "seeds" / fuzz.SEEDS_OF.get(name, name)).iterdir())


def damaged(data: bytes, chance: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw) + 1)
        way = chance.randrange(5)
        if way == 0:
            del raw[at:]
        elif way == 1:
            raw[at : at + 1] = bytes([chance.randrange(256)])
        elif way == 2:
            raw[at:at] = chance.choice([b"\0", b"\xff" * 4, b"../", b"[" * 50, b"-1", b"\n", b'"', b"\\"])
        elif way == 3:
            del raw[at : at + chance.randint(1, 600)]
        else:
            raw += raw[at : at + 512]
    return bytes(raw)


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_the_seeds_and_damages_of_them(name: str) -> None:
    target: Callable[[bytes], None] = fuzz.TARGETS[name]
    chance = random.Random(name)
    found = [path.read_bytes() for path in seeds(name)]
    for data in found:
        fuzz.run(target, data)
    for _ in range(DAMAGES):
        fuzz.run(target, damaged(chance.choice(found), chance))


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_each_target_takes_one_of_its_seeds(name: str) -> None:
    """`layer` had no folder to unpack into: it refused every archive there is, and nothing could be found by it."""
    taken = 0
    for path in seeds(name):
        try:
            fuzz.TARGETS[name](path.read_bytes())
        except LaminaError:
            continue
        taken += 1
    assert taken


def test_make_fuzz_runs_each_target() -> None:
    makefile = (_HERE.parent.parent / "Makefile").read_text()
    line = next(line for line in makefile.splitlines() if line.strip().startswith("@for target in"))
    assert set(line.partition(" in ")[2].partition(";")[0].split()) == set(fuzz.TARGETS)
