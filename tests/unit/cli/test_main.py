"""The door: each kind of error becomes one line and an exit code."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.cli import group, main
from lamina.cli.main import COMMANDS
from lamina.diagnostics.errors import LaminaError
from lamina.version import __version__

Lamina = Callable[..., Any]


def ending(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raises(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(group.cli, "main", raises)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LaminaError("it is so", hint="do that", exit_code=66), 66, "error: it is so\nhint: do that\n"),
        (KeyboardInterrupt(), 130, "lamina: interrupted\n"),
        (OSError(28, "No space left on device", "/x/y"), 74, "error: No space left on device: /x/y\n"),
        (OSError(28, "No space left on device"), 74, "error: No space left on device\n"),
        (ZeroDivisionError("division"), 70, "error: a bug in lamina: ZeroDivisionError: division\n"),
    ],
    ids=["lamina", "interrupt", "file", "os", "bug"],
)
def test_errors(lamina: Lamina, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str) -> None:
    ending(monkeypatch, error)
    found = lamina("images")
    assert found.code == code
    assert found.err.startswith(said)
    assert "Traceback" not in found.err


def test_debug_shows_the_traceback(lamina: Lamina, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, LaminaError("it is so"))
    assert "Traceback" in lamina("--debug", "images").err
    monkeypatch.setenv("LAMINA_DEBUG", "1")
    ending(monkeypatch, ZeroDivisionError("division"))
    with pytest.raises(ZeroDivisionError):
        lamina("images")


def test_a_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, BrokenPipeError())
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "dup2", lambda a, b: moved.append((a, b)))
    assert main.run(["images"]) == 141
    assert [to for _, to in moved] == [1], "what is still buffered must not raise again at the end"
    os.close(moved[0][0])


def program(arguments: str, streams: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`lamina ARGUMENTS` as a process of a shell; `streams` are its redirections."""
    command = f'"$0" -m lamina {arguments} {streams}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_streams_that_are_closed_or_cannot_be_written(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    (tmp_path / "Dockerfile").write_text(f"FROM scratch\nCOPY {'x' * 9} /\n")
    (tmp_path / ("x" * 9)).write_text("")
    build = f"build -q --no-cache {shlex.quote(str(tmp_path))}"
    for arguments in ("images", build, "build --help"):
        said = program(arguments, ">&- <&-", LAMINA_ROOT=root)
        assert (said.returncode, said.stderr) == (0, ""), arguments
    assert program(build, "2>&-", LAMINA_ROOT=root).stdout.startswith("sha256:")
    assert program("images", ">/dev/full", LAMINA_ROOT=root).returncode == 74
    assert program("version", ">/dev/full").returncode == 74
    assert program(f"build {shlex.quote(str(tmp_path))}", "2>/dev/full", LAMINA_ROOT=root).returncode == 74
    said = program("build -", "<&-", LAMINA_ROOT=root)
    assert (said.returncode, said.stderr) == (2, "error: standard input is closed, and is to be read\n")


def test_a_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    command = 'mkdir gone && cd gone && rmdir ../gone && "$0" -m lamina build .'
    said = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=tmp_path,
        env={**os.environ, "LAMINA_ROOT": str(tmp_path / "s")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stderr) == (74, "error: No such file or directory: the folder that this command was started in is gone\n")


def test_a_locale_without_a_letter_and_a_pipe_that_nobody_reads(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    said = program(f"plan {shlex.quote(str(tmp_path))}", "", LAMINA_ROOT=root, PYTHONIOENCODING="ascii")
    assert said.returncode == 3, said.stderr
    assert "\\u2514" in said.stdout
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as pipe:
        done = subprocess.run([sys.executable, "-m", "lamina", "images"], env={**os.environ, "LAMINA_ROOT": root}, stdout=pipe, check=False)
    assert done.returncode == 141


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["version"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"lamina {__version__}\n"


def test_an_interrupt_while_modules_are_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.main(["images"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "lamina: interrupted\n"


def test_the_exit_code_of_a_command_is_passed_on(lamina: Lamina) -> None:
    assert lamina("--help").code == 0
    assert lamina("nonsense").code == 2
    assert lamina("images", "--nonsense").code == 2


def test_every_command_has_a_module_and_its_line() -> None:
    import importlib

    for name, (module, text) in COMMANDS.items():
        command = importlib.import_module(f"lamina.cli.commands.{module}").command
        assert command.short_help == text, name
        assert "Example" in command.help, name


def test_a_command_can_have_an_environment_that_its_process_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAMINA_CUT_OFF", raising=False)
    words = ["--root", str(tmp_path / "store"), "images"]
    assert main.run(words, {"LAMINA_CUT_OFF": "sideways"}) == 2
    assert "sideways" in capsys.readouterr().err
    assert main.run(words) == 0
