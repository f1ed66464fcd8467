"""The sandbox's suite on the rungs without namespaces, and builds on them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.sandbox import rungs
from lamina.sandbox.protocols import SandboxSetupFailed
from lamina.testing import bases, ordinary
from lamina.testing.conformance.sandbox import Bench, probes
from lamina.testing.project import Project

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group("sandbox"),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs uid 0"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

DOCKERFILE = """
FROM base:1 AS build
RUN echo made > /made && mkdir -p /d && rm -r /home && chown 3:4 /made && mknod /zero c 1 5
COPY --chown=7:8 a.txt /d/
RUN --mount=type=cache,target=/cache echo x >> /cache/n && cat /cache/n > /n
RUN --mount=type=cache,target=/cache echo x >> /cache/n && wc -l < /cache/n > /lines
FROM base:1
COPY --from=build /made /d/ /lines /zero /out/
RUN --mount=type=bind,from=build,target=/b --mount=type=secret,id=s cat /b/made /out/a.txt /run/secrets/s > /all && chmod 4711 /all
RUN ls /b /run 2>/dev/null; cat /all && rm /out/a.txt && mv /out /moved
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("chroot")
    sandbox = rungs.make("chroot", (), folder / "trees")
    problems = sandbox.probe()
    if problems:
        pytest.skip(f"the rung `chroot` does not work here: {'; '.join(problems)}")
    yield Bench(sandbox, folder)
    sandbox.close()
    assert not (folder / "trees").exists(), "no tree stays"


@pytest.mark.parametrize("probe", probes("chroot"), ids=lambda probe: probe.__name__)
def test_probe(probe: Callable[[Bench], None], bench: Bench) -> None:
    probe(bench)


@pytest.mark.parametrize("wish", [{"network": "none"}, {"insecure": True}])
def test_what_cannot_be_given_is_refused(wish: dict[str, object], bench: Bench) -> None:
    with pytest.raises(SandboxSetupFailed, match="RUN --"):
        bench.run("true", **wish)


def members(path: Path) -> dict[str, tuple[object, ...]]:
    with tarfile.open(path) as archive:
        return {
            m.name: (m.type, m.mode, m.uid, m.gid, m.linkname, m.devmajor, m.devminor, archive.extractfile(m).read() if m.isreg() else b"")  # type: ignore[union-attr]  # regular files have one
            for m in archive
        }


def test_a_build_gives_what_root_gives(tmp_path: Path) -> None:
    """The same tree and the same state ids, so that records are shared; the second build is all cached; `check` is clean."""
    found, states = [], []
    bases.busybox_tar(tmp_path / "base.tar")
    for rung in ("root", "chroot"):
        (tmp_path / rung / "context").mkdir(parents=True)
        project = Project(tmp_path / rung / "context", tmp_path / rung / "store", {"LAMINA_SANDBOX": rung})
        project.write({"a.txt": "a\n", "secret": "shh"})
        project.dockerfile(DOCKERFILE)
        assert project.run("import", str(tmp_path / "base.tar"), "base:1").returncode == 0
        out = tmp_path / f"{rung}.tar"
        options = ("--secret", f"id=s,src={project.folder}/secret", "-o", f"type=tar,dest={out}")
        project.build(*options)
        again = project.build(*options)
        assert set(again.verdicts()) == {"C"}
        check = project.run("check")
        assert check.returncode == 0, check.stdout.decode() + check.stderr.decode()
        found.append(members(out))
        states.append([step.get("state") for step in again.report["steps"]])
    assert found[0] == found[1]
    assert found[0]["all"][-1] == b"made\na\nshh"
    assert found[0]["moved/lines"][-1] == b"2\n"
    assert "run/secrets" not in found[1]
    assert states[0] == states[1]


@pytest.fixture
def home() -> Iterator[Path]:
    reason = ordinary.why_not() or (None if shutil.which("proot") else "proot is not installed (make test-deps)")
    if reason:
        pytest.skip(reason)
    ordinary.make_user()
    folder = Path(tempfile.mkdtemp(prefix="lamina-proot-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_proot_suite(home: Path) -> None:
    done = ordinary.run(["-m", "lamina.testing.conformance.sandbox", "proot", str(home)], home)
    assert done.returncode == 0, done.stdout + done.stderr


def test_proot_builds(home: Path) -> None:
    bases.busybox_tar(home / "base.tar")
    (home / "context").mkdir()
    (home / "context" / "Dockerfile").write_text("FROM base:1\nRUN echo made > /made && rm -r /home\nRUN cat /made > /again\n")
    settings = {"LAMINA_ROOT": str(home / "store"), "LAMINA_SANDBOX": "proot"}
    for arguments in (
        ["import", "base.tar", "base:1"],
        ["build", "--progress=plain", "-o", "type=tar,dest=out.tar", "context"],
        ["build", "--progress=plain", "--report", "report.json", "context"],
        ["check"],
    ):
        done = ordinary.run(["-m", "lamina", *arguments], home, settings)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert "ran" not in [step["verdict"] for step in json.loads((home / "report.json").read_text())["steps"]]
    names = members(home / "out.tar")
    assert names["again"][-1] == b"made\n"
    assert "home" not in names
