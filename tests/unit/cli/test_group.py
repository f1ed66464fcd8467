"""The root group: overview, commands by name, what is near a misspelt one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lamina.cli.main import COMMANDS

Lamina = Callable[..., Any]


def test_the_overview_lists_every_command(lamina: Lamina) -> None:
    said = lamina("--help").out
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in said
        assert text in said


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each(lamina: Lamina, name: str) -> None:
    said = lamina(name, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: lamina {name} ")
    assert "Examples:" in said.out


def test_no_argument_shows_help(lamina: Lamina) -> None:
    said = lamina()
    assert "Commands:" in said.out + said.err


def test_did_you_mean(lamina: Lamina) -> None:
    said = lamina("biuld", ".")
    assert said.code == 2
    assert "Did you mean 'build'?" in said.err
    assert "lamina --help" in lamina("xyzzy").err


def test_global_options_behind_the_command(lamina: Lamina) -> None:
    """`lamina build --sandbox=crun .` said: No such option '--sandbox'. Did you mean '--sbom'?"""
    said = lamina("build", "--sandbox=crun", ".")
    assert said.code == 2
    assert "goes before the command: lamina --sandbox RUNG build" in said.err
    assert "goes before the command: lamina --debug cache" in lamina("cache", "ls", "--debug").err
    assert "No such option '--sandbo'" in lamina("build", "--sandbo", "x").err
    assert "No such option '--version'" in lamina("lint", "--version").err


def test_global_options_come_from_the_environment_too(lamina: Lamina, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "other"))
    assert lamina("images").code == 0
    assert (tmp_path / "other/VERSION").exists()
    assert lamina("--root", str(tmp_path / "given"), "images").code == 0
    assert (tmp_path / "given/VERSION").exists()
    monkeypatch.setenv("LAMINA_SANDBOX", "usersn")
    assert "did you mean userns?" in lamina("images").err
