"""Finding lamina's own modules. A small build imports 170 of them, and of each the standard finder asks for seven names and whether its folder has
changed meanwhile: a twentieth of that build. Only the command line's process installs this (main.py); ADR 15 has the figures and what was refused."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

TYPE_CHECKING = False  # typing's own costs an import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


class OwnModules:
    """A meta path finder for what lies below one package, in plain folders that do not change while the process runs. What it does not find is left
    to the finders after it."""

    def __init__(self, package: str, folder: str) -> None:
        self._prefix = package + "."
        self._folder = folder
        self._listed: dict[str, frozenset[str]] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that importlib.machinery.PathFinder would give."""
        if not name.startswith(self._prefix):
            return None
        folder, _, last = f"{self._folder}/{name[len(self._prefix) :].replace('.', '/')}".rpartition("/")
        names = self._names(folder)
        inner = f"{folder}/{last}"
        package = last in names and "__init__.py" in self._names(inner)
        if not package and f"{last}.py" not in names:
            return None
        place = f"{inner}/__init__.py" if package else f"{inner}.py"
        spec = ModuleSpec(name, SourceFileLoader(name, place), origin=place, is_package=package)
        spec.has_location = True  # so that the compiled file beside it is used
        if package:
            spec.submodule_search_locations = [inner]
        return spec

    def _names(self, folder: str) -> frozenset[str]:
        names = self._listed.get(folder)
        if names is None:
            try:
                names = frozenset(os.listdir(folder))
            except OSError:  # no folder
                names = frozenset()
            self._listed[folder] = names
        return names


def install(package: ModuleType) -> None:
    """For a package in a plain folder, as pip and git leave it; what lies in a zip or is compiled only is for its own loader. Idempotent."""
    places = list(package.__path__)
    plain = package.__spec__ is not None and type(package.__spec__.loader) is SourceFileLoader and len(places) == 1
    if plain and not any(type(finder) is OwnModules for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnModules(package.__name__, places[0]))
