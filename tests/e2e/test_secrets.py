"""A secret's bytes are nowhere after (and outside of) the step that mounts it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lamina.testing.project import Project

SECRET = "s3cr3t-5f1d9c0a7be2"


def holders(folder: Path) -> list[str]:
    """Files below `folder` that hold the secret's bytes."""
    return [str(p) for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and SECRET.encode() in p.read_bytes()]


def test_secret_is_in_no_store_report_log_history_or_process_list(project: Project, tmp_path: Path) -> None:
    token = tmp_path / "outside" / "tok"
    token.parent.mkdir()
    token.write_text(SECRET)
    project.dockerfile(
        """
        FROM base:1
        RUN --mount=type=secret,id=tok test "$(cat /run/secrets/tok | wc -c)" = 19 && sleep 1 && sha256sum /run/secrets/tok > /sum
        RUN --mount=type=secret,id=tok,env=TOKEN test -n "$TOKEN" && echo ok > /ok
        RUN --mount=type=secret,id=tok,target=/etc/tok,mode=0444,uid=5 stat -c '%a %u' /etc/tok > /mode
        RUN test ! -e /etc/tok && test ! -e /run/secrets
        """
    )
    report = tmp_path / "outside" / "report.json"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "lamina", "build", "--progress=json", "-t", "s:1", "--secret", f"id=tok,src={token}", "--report", str(report),
            str(project.folder),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LAMINA_ROOT": str(project.root)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    seen = []
    while process.poll() is None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                for name in ("cmdline", "environ"):
                    try:
                        data = (entry / name).read_bytes()
                    except OSError:
                        continue
                    # the workload of the env= step has it in its environment: that is what was asked for
                    if SECRET.encode() in data and not (name == "environ" and b"TOKEN=" in data):
                        seen.append((entry.name, name))
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert not seen
    assert SECRET.encode() not in out + err
    assert not holders(project.root)
    assert SECRET not in report.read_text()
    for arguments in (["history", "--no-trunc", "s:1"], ["inspect", "s:1"], ["why", "s:1"], ["cache", "ls"]):
        done = project.run(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        assert SECRET.encode() not in done.stdout + done.stderr


def test_a_changed_secret_is_a_hit(project: Project, tmp_path: Path) -> None:
    """Values of secrets are in no key, as in BuildKit."""
    token = tmp_path / "tok"
    token.write_text("one")
    project.dockerfile("FROM base:1\nRUN --mount=type=secret,id=tok cat /run/secrets/tok | wc -c > /n\n")
    project.build("--secret", f"id=tok,src={token}")
    token.write_text("another")
    assert project.build("--secret", f"id=tok,src={token}").verdicts() == "C"
