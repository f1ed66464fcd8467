"""What `lamina replay` says of commits is what building them one after the other did."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lamina.testing.project import Project

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="RUN steps are run as root here")

DOCKERFILE = """
FROM base:1 AS tools
COPY tools /tools
RUN cat /tools/* | wc -c > /size
FROM base:1 AS app
WORKDIR /app
COPY --link notes /notes
COPY . .
RUN grep -v '^#' src/a > /clean || true
RUN cp /clean /final
FROM app
COPY --from=tools /size /size
RUN --mount=type=bind,source=docs,target=/docs cat /docs/x > /docs.txt
"""


def git(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_equal(project: Project) -> None:
    folder = project.folder
    git(folder, "init", "-q", "-b", "main")
    changes: list[tuple[str, dict[str, str]]] = [
        (
            "first",
            {"Dockerfile": DOCKERFILE.lstrip(), "src/a": "one\n", "notes/n": "n\n", "docs/x": "d\n", "tools/t": "12345", "ä/ö": "u\n"},
        ),
        ("source", {"src/a": "two\n"}),
        ("only a comment: cut off behind the RUN", {"src/a": "two\n#\n"}),
        ("ignored from now on", {".dockerignore": "docs/y\n.git\n"}),
        ("ignored", {"docs/y": "y\n"}),
        ("a mount's file", {"docs/x": "e\n"}),
        ("same size: cut off behind the stage", {"tools/t": "54321"}),
        ("another step", {"Dockerfile": DOCKERFILE.lstrip() + "RUN echo more > /more\n"}),
        ("mode", {}),
        ("back to the second", {"src/a": "two\n"}),
    ]
    ran: list[int] = []
    for subject, files in changes:
        project.write(files)
        if subject == "mode":
            (folder / "src/a").chmod(0o755)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", subject)
        report = project.build().report
        keys = {step["key"]: step["verdict"] for step in report["steps"] if step.get("key")}
        ran.append(sum(verdict == "ran" for verdict in keys.values()))
    done = project.run("replay", "--json", ".")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert [(row["subject"], row["misses"]) for row in found["commits"]] == [(subject, count) for (subject, _), count in zip(changes, ran)]
    assert all(row["seconds"] is not None for row in found["steps"])
    assert sum(ran[1:]) == found["misses"]
