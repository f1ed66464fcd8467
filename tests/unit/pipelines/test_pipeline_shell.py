"""The script's text, run by the shells that there are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.diagnostics.span import Source, Span
from lamina.pipelines.model import Assignment, Command, Pipe
from lamina.pipelines.run import shell

SPAN = Span(Source("f", ""), 1)
SHELLS = [name for name in ("bash", "dash", "sh") if shutil.which(name)]
if Path("/bin/busybox").exists():
    SHELLS.append("busybox")


def run(name: str, *lines: str) -> tuple[int, str]:
    text = shell.script([Command(line, SPAN) for line in lines])
    command = ["/bin/busybox", "sh", "-s"] if name == "busybox" else [name, "-s"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", SHELLS)
def test_items_share_one_shell_and_begin_with_zero(name: str) -> None:
    code, out = run(name, "X=1; cd /", "(exit 3) || true", 'echo "$? $X $PWD"', "false && true", "echo still")
    assert code == 0
    assert "0 1 /\n" in out
    assert "still\n" in out


@pytest.mark.parametrize("name", SHELLS)
def test_the_first_failure_ends_it_with_its_code(name: str) -> None:
    code, out = run(name, "echo a", "(exit 7)", "echo never")
    assert code == 7
    assert out == "\x1d+ echo a\na\n\n\x1d+ (exit 7)\n"


@pytest.mark.parametrize("name", SHELLS)
def test_one_item_of_several_lines_keeps_the_exit_code(name: str) -> None:
    assert run(name, 'false || echo "code $?"\n')[1].endswith("code 1\n\n")


@pytest.mark.parametrize("name", SHELLS)
def test_an_if_over_several_items(name: str) -> None:
    code, out = run(name, "if true; then", "echo inside", "fi")
    assert code == 0
    assert "inside\n" in out


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize("text", ["echo 'it''s'", 'echo "%s \\n $HOME"', "echo '$(id)'", "echo %d", "echo \\\\"])
def test_an_item_is_shown_as_written(name: str, text: str) -> None:
    assert run(name, text)[1].startswith(f"\x1d+ {text}\n")


@pytest.mark.parametrize("name", SHELLS)
def test_only_variables_are_expanded_in_a_word(name: str) -> None:
    word = shell.expanded('a "b" `id` $(id) \\ $X')
    assert run(name, "X=1", f"printf '%s' {word}")[1].endswith('a "b" `id` $(id) \\ 1\n')


def test_lists_of_a_pipe_are_counted() -> None:
    found = shell.pipe_variables([Assignment("A", "x", SPAN), Assignment("L", ("p", "q"), SPAN)])
    assert found == [("A", "x"), ("L_COUNT", "2"), ("L_0", "p"), ("L_1", "q")]


def test_pipes_are_numbered_on() -> None:
    text = shell.script([Pipe("a/b:1", SPAN), Command("x", SPAN), Pipe("c/d:2", SPAN)], first_pipe=4)
    assert "echo 4 >" in text
    assert "echo 5 >" in text
