"""What a start imports, seen in sys.modules of a fresh process; never by a clock. The budgets' reasons are in docs/adr/0001-dependencies.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import json, sys
before = set(sys.modules)
from lamina.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""
HEAVY = {
    "urllib3",
    "h11",
    "yaml",
    "ruamel",
    "isal",
    "backports",
    "ssl",
    "http",
    "asyncio",
    "sqlite3",
    "tarfile",
    "multiprocessing",
    "email",
    "rich",
}


def imported(tmp_path: Path, *arguments: str) -> set[str]:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LAMINA_ROOT": str(tmp_path / "store"), "LAMINA_SANDBOX": "none"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("lamina")}


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("argument", ["--version", "-V", "version"])
def test_version_imports_next_to_nothing(tmp_path: Path, argument: str) -> None:
    found = imported(tmp_path, argument)
    assert ours(found) == {"lamina", "lamina.cli", "lamina.cli.main", "lamina.version"}
    assert tops(found) - {"lamina"} <= sys.stdlib_module_names, "no library of others"
    assert tops(found) & (HEAVY | {"argparse", "json", "dataclasses", "inspect", "pathlib", "re", "subprocess"}) == set()


def test_help_imports_no_command(tmp_path: Path) -> None:
    found = imported(tmp_path, "--help")
    assert {name for name in ours(found) if name.startswith("lamina.cli.commands")} == set()
    assert not {name for name in ours(found) if name.startswith(("lamina.engine", "lamina.store", "lamina.dockerfile"))}
    assert tops(found) & HEAVY == set()
    assert {"click", "msgspec"} <= tops(found)


def test_help_of_a_command_imports_that_one(tmp_path: Path) -> None:
    found = {name for name in imported(tmp_path, "tag", "--help") if name.startswith("lamina.cli.commands.")}
    assert found == {"lamina.cli.commands.tag"}


def test_a_cached_build_imports_no_network_and_no_compression(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a /\n")
    (tmp_path / "a").write_text("a")
    imported(tmp_path, "build", "-q", "-t", "a:1", ".")
    found = imported(tmp_path, "build", "-q", "-t", "a:1", ".")
    assert tops(found) & (HEAVY - {"sqlite3"}) == set()
    assert not {name for name in ours(found) if name.startswith(("lamina.registry", "lamina.testing", "lamina.pipelines", "lamina.server"))}
    assert not {"lamina.engine.runners.files", "lamina.engine.runners.exec", "lamina.layer.compress"} & found
