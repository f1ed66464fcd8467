"""As an ordinary user: the sandbox's suite with a range of ids and with a single one, and whole builds."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, ordinary

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]
NEEDS_RANGE = pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed (make test-deps)")
NEEDS_FUSE = pytest.mark.skipif(
    not (shutil.which("fuse-overlayfs") and ordinary.has_fuse()),
    reason="fuse-overlayfs is not installed (make test-deps), or /dev/fuse is not there for everybody",
)
RUNGS = [
    pytest.param("userns", marks=NEEDS_RANGE),
    pytest.param("userns-fuse", marks=[NEEDS_RANGE, NEEDS_FUSE, pytest.mark.slow]),
    "userns-single",
]

DOCKERFILE = """
FROM base:1 AS build
RUN echo made > /made && mkdir -p /d && rm -r /home
COPY --chown=7:8 a.txt /d/
FROM base:1
COPY --from=build /made /d/ /out/
RUN cat /out/made /out/a.txt > /all
LABEL x=y
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that another user can reach (pytest's own are root's)."""
    ordinary.make_user()
    folder = Path(tempfile.mkdtemp(prefix="lamina-rootless-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("rung", RUNGS)
def test_sandbox_suite(rung: str, home: Path) -> None:
    done = ordinary.run(["-m", "lamina.testing.conformance.sandbox", rung, str(home)], home)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rung", RUNGS)
def test_build_again_and_owners(rung: str, home: Path) -> None:
    """A COPY's owner is in the image, whatever ids the user has; the second build is all cached."""
    bases.busybox_tar(home / "base.tar")
    (home / "context").mkdir()
    (home / "context" / "a.txt").write_text("a\n")
    (home / "context" / "Dockerfile").write_text(DOCKERFILE.lstrip())
    settings = {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": rung}
    for arguments in (
        ["import", "base.tar", "base:1"],
        ["build", "--progress=plain", "-t", "app:1", "context"],
        ["build", "--progress=plain", "--report", "report.json", "-o", "type=tar,dest=out.tar", "context"],
        ["build", "--progress=plain", "--target", "build", "-o", "type=tar,dest=build.tar", "context"],
        ["check"],
    ):
        done = ordinary.run(["-m", "lamina", *arguments], home, settings)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    verdicts = [step["verdict"] for step in json.loads((home / "report.json").read_text())["steps"]]
    assert "ran" not in verdicts
    import tarfile

    with tarfile.open(home / "build.tar") as archive:
        member = archive.getmember("d/a.txt")
        assert (member.uid, member.gid) == (7, 8)
        assert "home" not in archive.getnames()
    with tarfile.open(home / "out.tar") as archive:
        data = archive.extractfile("all")
        assert data is not None
        assert data.read() == b"made\na\n"


def test_without_any_namespace_a_dockerfile_without_run_builds(home: Path) -> None:
    (home / "context").mkdir()
    (home / "context" / "a.txt").write_text("a\n")
    (home / "context" / "Dockerfile").write_text("FROM scratch\nCOPY --chown=5:6 a.txt /x/\nWORKDIR /w\nENV A=1\n")
    settings = {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": "none"}
    done = ordinary.run(["-m", "lamina", "build", "--progress=plain", "-o", "type=tar,dest=out.tar", "context"], home, settings)
    assert done.returncode == 0, done.stderr
    import tarfile

    with tarfile.open(home / "out.tar") as archive:
        member = archive.getmember("x/a.txt")
        assert (member.uid, member.gid, member.size) == (5, 6, 2)
    (home / "context" / "Dockerfile").write_text("FROM scratch\nRUN true\n")
    done = ordinary.run(["-m", "lamina", "build", "--progress=plain", "context"], home, settings)
    assert done.returncode == 69
    assert "RUN cannot be executed here" in done.stderr
