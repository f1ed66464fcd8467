"""The finder of our own modules gives what the standard one gives, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import lamina
from lamina.cli.modules import OwnModules, install

ROOT = Path(lamina.__file__).parent
PLACES = sorted(ROOT.rglob("*.py"))


def name_of(place: Path) -> str:
    parts = place.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_module_is_found_as_the_standard_finder_finds_it() -> None:
    finder = OwnModules("lamina", str(ROOT))
    compared = 0
    for name in {name_of(place) for place in PLACES} - {"lamina"}:
        folder = ROOT.parent.joinpath(*name.split(".")[:-1])
        if not all((above / "__init__.py").exists() for above in (folder, *folder.parents) if ROOT in (above, *above.parents)):
            continue  # stand-alone scripts: no package
        standard, found = PathFinder.find_spec(name, [str(folder)]), finder.find_spec(name)
        assert standard is not None
        assert found is not None, name
        for what in ("name", "origin", "cached", "has_location", "submodule_search_locations", "parent"):
            assert getattr(found, what) == getattr(standard, what), (name, what)
        assert type(found.loader) is type(standard.loader)
        assert found.loader == standard.loader
        compared += 1
    assert compared > 500


@pytest.mark.parametrize(
    "name", ["lamina", "lamina.nothing", "lamina.cli.nothing.at_all", "lamina.cli.main.inner", "laminate", "os", "lamina.cli.README"]
)
def test_what_is_not_ours_is_left_to_the_others(name: str) -> None:
    assert OwnModules("lamina", str(ROOT)).find_spec(name) is None


def test_it_is_installed_once_and_only_over_plain_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    zipped = ModuleType("lamina")
    zipped.__path__ = ["/x.zip/lamina"]
    zipped.__spec__ = SimpleNamespace(loader=object())  # type: ignore[assignment]  # a spec with another loader
    install(zipped)
    assert sys.meta_path == []
    install(lamina)
    install(lamina)
    assert len(sys.meta_path) == 1


@pytest.mark.parametrize("way", ["folder", "zip"])
def test_the_command_line_runs_from_a_folder_and_from_a_zip(tmp_path: Path, way: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    place = ROOT.parent
    if way == "zip":
        from zipfile import ZipFile

        place = tmp_path / "lamina.zip"
        with ZipFile(place, "w") as archive:
            for file in PLACES:
                archive.write(file, file.relative_to(ROOT.parent))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(place), "LAMINA_ROOT": str(tmp_path / "store"), "LAMINA_SANDBOX": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "lamina", "build", "-q", str(tmp_path / "app")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha256:")
