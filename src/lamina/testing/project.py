"""A project under test: a context folder, a store of its own, and the command line run as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a build report."""

    stage: int
    line: int
    text: str
    verdict: str
    code: str
    message: str
    trigger: bool

    def __str__(self) -> str:
        return f"{self.line}: {self.verdict} {self.text} [{self.code}: {self.message}]"


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    stdout: str
    stderr: str
    report: dict[str, Any] = field(repr=False)

    @property
    def rows(self) -> list[Row]:
        return [
            Row(
                s["stage"],
                s["line"],
                s["text"],
                "failed" if s.get("failed") else s["verdict"],
                s["reason"]["code"],
                s["reason"]["message"],
                s["trigger"],
            )
            for s in self.report.get("steps", [])
        ]

    def verdicts(self) -> str:
        """One letter for each step that has a vertex: C hit, x ran, - skipped, ! failed."""
        return "".join(
            {"hit": "C", "ran": "x", "skipped": "-", "failed": "!"}.get(r.verdict, "") for r in self.rows if not r.text.startswith("FROM")
        )

    def row(self, text: str) -> Row:
        """The only row whose text begins with `text`."""
        found = [r for r in self.rows if r.text.startswith(text)]
        assert len(found) == 1, f"{len(found)} rows begin with {text!r}:\n" + "\n".join(map(str, self.rows))
        return found[0]


@dataclass(slots=True)
class Project:
    """`folder` is the context; `root` the store. `environment` is added to a small clean one."""

    folder: Path
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, data in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)

    def dockerfile(self, text: str) -> None:
        self.write({"Dockerfile": textwrap.dedent(text).lstrip()})

    def run(
        self, *arguments: str, stdin: bytes | None = None, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.environ.get("HOME", "/"),
            "LAMINA_ROOT": str(self.root),
            **self.environment,
        }
        return subprocess.run(
            [sys.executable, "-m", "lamina", *arguments],
            env=environment,
            input=stdin,
            cwd=cwd or self.folder,
            capture_output=True,
            check=False,
            timeout=timeout,
        )

    def build(self, *options: str, context: Path | None = None, ok: bool = True) -> Outcome:
        """`lamina build`, with its report. With `ok`, a failure fails the test and shows why."""
        report = self.root.parent / f"report-{self.root.name}.json"
        report.unlink(missing_ok=True)
        done = self.run("build", "--progress=plain", "--report", str(report), *options, str(context or self.folder))
        document = json.loads(report.read_text()) if report.exists() else {}
        outcome = Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), document)
        assert not ok or done.returncode == 0, f"lamina build failed with {done.returncode}:\n{outcome.stderr}"
        return outcome
