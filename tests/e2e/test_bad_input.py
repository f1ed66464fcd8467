"""Mistakes on purpose: each ends in one clear line, with its exit code, and nothing is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lamina.testing.project import Outcome, Project
from lamina.testing.registry import free_port


def errors(outcome: Outcome) -> str:
    assert outcome.code != 0
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if re.search(r"\berror: ", line)]
    assert len(lines) == 1, f"not one clear line:\n{outcome.stderr}"
    return outcome.stderr


CASES: list[tuple[str, str, int, list[str]]] = [
    ("unknown instruction", "FROM base:1\nRUM echo x\n", 2, ["Dockerfile:2", "RUM", "RUN"]),
    ("missing file", "FROM base:1\nCOPY requirments.txt /\n", 66, ["Dockerfile:2", "requirments.txt", "requirements.txt"]),
    ("outside the context", "FROM base:1\nCOPY ../../etc/shadow /\n", 66, ["Dockerfile:2", "shadow"]),
    ("circular stages", "FROM base:1 AS a\nCOPY --from=a /x /y\n", 2, ["Dockerfile:2"]),
    ("undefined stage", "FROM base:1 AS build\nFROM base:1\nCOPY --from=biuld /x /y\n", 69, ["biuld"]),
    ("broken heredoc", "FROM base:1\nRUN <<EOF\necho x\n", 2, ["Dockerfile:2", "EOF"]),
    ("bad escape", "# escape=x\nFROM base:1\n", 2, ["Dockerfile:1", "escape"]),
    ("unset required variable", 'FROM base:1\nARG X\nENV A="${X?name it}"\n', 2, ["Dockerfile:3", "X", "name it"]),
    ("exit code of RUN", "FROM base:1\nRUN exit 17\n", 17, ["Dockerfile:2", "17"]),
    ("command not found", "FROM base:1\nRUN no-such-command\n", 127, ["Dockerfile:2", "127"]),
    (
        "missing secret",
        "FROM base:1\nRUN --mount=type=secret,id=tok,required=true cat /run/secrets/tok\n",
        2,
        ["Dockerfile:2", "tok", "--secret"],
    ),
    ("unknown flag", "FROM base:1\nCOPY --form=x a b\n", 2, ["Dockerfile:2", "--from"]),
    ("no instruction", "", 2, ["Dockerfile"]),
]


@pytest.mark.parametrize(("text", "code", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_one_clear_line(text: str, code: int, words: list[str], project: Project) -> None:
    project.write({"requirements.txt": "x\n", "Dockerfile": text})
    outcome = project.build(ok=False)
    said = errors(outcome)
    assert outcome.code == code, said
    for word in words:
        assert word in said, said
    assert project.run("check").returncode == 0


def test_unknown_target_names_the_nearest(project: Project) -> None:
    project.dockerfile("FROM base:1 AS prod\n")
    said = errors(project.build("--target", "prd", ok=False))
    assert "prod" in said


def test_no_dockerfile(project: Project) -> None:
    said = errors(project.build(ok=False))
    assert "Dockerfile" in said


def test_unreachable_registry(project: Project) -> None:
    port = free_port()
    project.dockerfile(f"FROM 127.0.0.1:{port}/team/app:1\nRUN true\n")
    outcome = project.build(ok=False)
    said = errors(outcome)
    assert outcome.code == 69
    assert f"127.0.0.1:{port}" in said


def test_corrupt_archive(project: Project) -> None:
    (project.folder / "broken.tar").write_bytes(os.urandom(5000))
    done = project.run("load", "-i", str(project.folder / "broken.tar"))
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert b"broken.tar" in done.stderr
    assert project.run("check").returncode == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.parametrize("kind", ["full", "readonly"])
def test_full_disk_and_read_only_root(kind: str, project: Project, tmp_path: Path) -> None:
    """In a mount namespace of its own, so that nothing is left behind."""
    import subprocess
    import sys

    project.write({"big": os.urandom(3 << 20)})
    project.dockerfile("FROM scratch\nCOPY big /big\n")
    place = tmp_path / "small"
    place.mkdir()
    option = "size=2m" if kind == "full" else "size=20m,ro"
    script = (
        f"mount -t tmpfs -o {option} none {place} && "
        f"LAMINA_ROOT={place}/store {sys.executable} -m lamina build --progress=plain {project.folder}"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    said = errors(Outcome(done.returncode, done.stdout, done.stderr, {}))
    assert done.returncode == 74, said
    assert ("no space left" in said.lower() or "full" in said) if kind == "full" else ("read-only" in said.lower()), said


def test_options_with_mistakes(project: Project) -> None:
    project.dockerfile("FROM base:1\n")
    for options, word in (
        (["--secret", "src=x"], "id="),
        (["--secret", "id=a,scr=x"], "src"),
        (["-o", "type=ocl,dest=x"], "oci"),
        (["--max-age", "deps"], "DURATION"),
        (["--platform", "linux/bogus/x/y"], "platform"),
        (["--cache-from", "x"], "is no shared cache"),
    ):
        outcome = project.build(*options, ok=False)
        assert outcome.code == 2, outcome.stderr
        assert word in outcome.stderr, outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_a_failing_step_keeps_what_was_done(project: Project) -> None:
    project.dockerfile("FROM base:1\nRUN echo 1 > /1\nRUN false\n")
    first = project.build(ok=False)
    assert first.code == 1
    assert [r.verdict for r in first.rows if r.text.startswith("RUN")] == ["ran", "failed"]
    again = project.build(ok=False)
    assert [r.verdict for r in again.rows if r.text.startswith("RUN")] == ["hit", "failed"]


def test_a_dockerfile_that_is_no_utf8(project: Project) -> None:
    """Bytes of another encoding reach what a RUN writes as they are, and the config and the report as U+FFFD, as Go's JSON has them."""
    name = "J\xfcrgen".encode("latin-1")
    text = (
        b"FROM base:1\n# @\nARG A=@\nENV B=@\nLABEL c=@\nRUN echo @ > /x\nCOPY Dockerfile /@.txt\nWORKDIR /@\nENTRYPOINT @\nONBUILD RUN @\n"
    )
    project.write({"Dockerfile": text.replace(b"@", name)})
    out = project.root.parent / "out"
    assert project.build("-t", "x:1").verdicts() == "xxx"
    assert project.build("-t", "x:1", "-o", f"type=local,dest={out}").verdicts() == "CCC"
    assert (out / "x").read_bytes() == name + b"\n"
    assert os.path.exists(os.fsencode(out) + b"/" + name + b".txt")
    for command in (["inspect", "x:1"], ["history", "--json", "x:1"], ["why", "x:1"], ["plan", "--json", "."], ["cache", "ls", "--json"]):
        done = project.run(*command)
        assert done.returncode == 0, done.stderr.decode()
        done.stdout.decode()
    for line in (b"ADD http://127.0.0.1:1/@ /", b"USER @\nRUN x", b"# lamina: watch=http://127.0.0.1:1/@\nRUN x", b'SHELL ["@"]\nRUN x'):
        project.write({"Dockerfile": b"FROM base:1\n" + line.replace(b"@", name) + b"\n"})
        errors(project.build(ok=False))
