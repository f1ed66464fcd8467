"""A step's script as one shell program, with the behaviour that people rely on.

All items run in one `set -e` shell. Before each item its text is printed behind the byte 0x1d and `+ `, after it a newline; so `$?` is 0 at the
beginning of every item, as on Bitbucket. Items are only joined: `if` in one and `fi` in another works.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamina.pipelines.model import Agent, Assignment, Command, Pipe, ScriptItem

AGENT = "/opt/atlassian/pipelines/agent"
CLONE = f"{AGENT}/build"
TOOLS = f"{AGENT}/tmp"  # shown to the step, written by us
SCRIPT, AFTER, WRAPPER = f"{TOOLS}/script.sh", f"{TOOLS}/after.sh", f"{TOOLS}/step.sh"
VARIABLES = f"{TOOLS}/variables/output"
PIPES = f"{TOOLS}/pipes"
ITEM, AFTER_BEGINS = "\x1d", "\x1e"  # at the beginning of a line of output


def script(items: Sequence[ScriptItem], first_pipe: int = 0) -> str:
    """The program. Pipes are asked for by number, from `first_pipe` on, in the order of the items."""
    lines = ["set -e"]
    number = first_pipe
    for item in items:
        if isinstance(item, Agent):
            continue  # the plan refuses it
        shown = item.text if isinstance(item, Command) else f"pipe: {item.name}"
        lines.append(f"printf '\\035+ %s\\n' {quoted(shown.rstrip())}")
        if isinstance(item, Pipe):
            lines.append(_pipe(item, number))
            number += 1
        else:
            lines.append(item.text.rstrip("\n"))
        lines.append("printf '\\n'")
    return "\n".join(lines) + "\n"


def wrapper(*, after: bool) -> str:
    """What the step's container runs with /bin/sh: the script, then the after-script with the exit code; the result is the script's."""
    lines = ["shell=sh", "if command -v bash >/dev/null 2>&1; then shell=bash; fi", f'"$shell" {SCRIPT}', "code=$?"]
    if after:
        lines += ["printf '\\036\\n'", f'BITBUCKET_EXIT_CODE=$code "$shell" {AFTER}']
    return "\n".join([*lines, "exit $code"]) + "\n"


def _pipe(pipe: Pipe, number: int) -> str:
    """Write what the pipe shall get (its variables as this shell expands them), ask for it, pass on its exit code."""
    request = f"{PIPES}/{number}"
    values = [("PWD", '"$PWD"'), *((name, expanded(value)) for name, value in pipe_variables(pipe.variables))]
    printed = "; ".join(f"printf '%s=%s\\0' {name} {value}" for name, value in values)
    return f'( {{ {printed}; }} > {request}.request; echo {number} > {PIPES}/ask; code=$(cat {request}.answer); exit "${{code:-1}}" )'


def pipe_variables(variables: Sequence[Assignment]) -> list[tuple[str, str]]:
    """A list X becomes X_COUNT and X_0, X_1 …"""
    found: list[tuple[str, str]] = []
    for one in variables:
        if isinstance(one.value, str):
            found.append((one.name, one.value))
        else:
            found.append((f"{one.name}_COUNT", str(len(one.value))))
            found += [(f"{one.name}_{index}", value) for index, value in enumerate(one.value)]
    return found


def expanded(text: str) -> str:
    """A word in which the shell expands variables and nothing else."""
    for special in ("\\", '"', "`"):
        text = text.replace(special, "\\" + special)
    return '"' + text.replace("$(", "\\$(") + '"'


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
