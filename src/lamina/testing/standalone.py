"""Modules of sandbox/standalone/, which stand alone: loaded by path, as the zygote does, with their siblings beside them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import lamina.sandbox

FOLDER = Path(lamina.sandbox.__file__).parent / "standalone"


@contextmanager
def loaded(name: str) -> Iterator[ModuleType]:
    """A fresh one each time; nothing of it stays in sys.modules."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(f"standalone_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        for sibling in FOLDER.glob("*.py"):
            if sibling.stem not in before:
                sys.modules.pop(sibling.stem, None)
