"""An archive as context, built by an ordinary user: the owners that it states are in the image, whatever ids the user has."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import ordinary
from lamina.testing.tars import archive, folder, member

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
]
NEEDS_RANGE = pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap is not installed (make test-deps)")
PROGRAM = """
import os
os.dup2(os.open("ctx.tar", os.O_RDONLY), 0)
from lamina.cli.main import main
main(["build", "-q", "--output", "type=tar,dest=out.tar", "-"])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    ordinary.make_user()
    made = Path(tempfile.mkdtemp(prefix="lamina-context-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.parametrize("rung", [pytest.param("userns", marks=NEEDS_RANGE), "userns-single"])
def test_owners_of_an_archive(rung: str, home: Path) -> None:
    context = archive(
        [member("Dockerfile", b"FROM scratch\nCOPY . /\n"), folder("d"), member("d/x", b"x", uid=1234, gid=2345, mode=0o4750)]
    )
    (home / "ctx.tar").write_bytes(context)
    done = ordinary.run(["-c", PROGRAM], home, {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": rung})
    assert done.returncode == 0, done.stderr
    with tarfile.open(home / "out.tar") as tar:
        found = tar.getmember("d/x")
    assert (found.uid, found.gid, found.mode) == (1234, 2345, 0o4750)
