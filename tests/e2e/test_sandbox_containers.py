"""lamina inside containers, as CI runs it: what is chosen there, that it builds, and that doctor says why the rest does not work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, dockerd

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.xdist_group("dockerd"),
    pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]
DOCKERFILE = """
FROM base:1
RUN mkdir /d && echo made > /d/made && rm -r /home && touch /own && chown 5:6 /own && ls -l / >/dev/null
RUN cat /d/made > /again
"""
# options of docker run, the user, the place of the store, the rung that is chosen, whether owners are kept
CASES = {
    "default-root": ((), "0", "/store", "chroot", True),
    "default-1000": ((), "1000", "/store", "none", False),
    "nothing-allowed-1000": (("--cap-drop", "ALL", "--security-opt", "no-new-privileges"), "1000", "/store", "none", False),
    "no-capabilities-root": (("--cap-drop", "ALL"), "0", "/tmp/store", "none", False),
    "unconfined-root": (("--security-opt", "seccomp=unconfined"), "0", "/store", "userns", True),
    "unconfined-1000": (("--security-opt", "seccomp=unconfined"), "1000", "/store", "userns-single", True),
    "sys-admin-root": (("--cap-add", "SYS_ADMIN"), "0", "/store", "root", True),
    "sys-admin-own-disk": (("--cap-add", "SYS_ADMIN"), "0", "/tmp/store", "chroot", True),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dockerd.Daemon]:
    """A daemon with an image; this interpreter and the host's libraries are shown in its containers."""
    folder = tmp_path_factory.mktemp("image")
    bases.busybox_tar(folder / "box.tar")
    with dockerd.daemon() as daemon:
        daemon.docker("import", str(folder / "box.tar"), "box:1")
        yield daemon


def inside(engine: dockerd.Daemon, case: str, work: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    options, user, store, _, _ = CASES[case]
    shown = [f"{path}:{path}:ro" for path in ("/lib", "/lib64", "/usr/lib", "/etc/ld.so.cache") if Path(path).exists()]
    source = Path(__file__).resolve().parents[2] / "src"
    site = [path for path in sys.path if path.endswith("site-packages")]
    shown += [
        f"{sys.base_prefix}:/python:ro",
        f"{source}:/src:ro",
        *(f"{path}:/site{n}:ro" for n, path in enumerate(site)),
        f"{work}:/work",
    ]
    if store == "/store":
        shown.append(f"{work / 'store'}:/store")
    binds = [word for item in shown for word in ("-v", item)]
    settings = {
        "PYTHONPATH": ":".join(["/src", *(f"/site{n}" for n in range(len(site)))]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/work",
        "LAMINA_ROOT": store,
        "PATH": "/bin:/usr/bin",
    }
    environment = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
    program = f"/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    script = " && ".join(" ".join([program, "-m", "lamina", *words.split()]) for words in arguments)
    return engine.docker(
        "run", "--rm", "--network=none", *options, "-u", f"{user}:{user}", *binds, *environment, "-w", "/work", "box:1", "sh", "-c", script, check=False
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_in_a_container(case: str, engine: dockerd.Daemon, tmp_path: Path) -> None:
    _, user, _, rung, owners = CASES[case]
    tmp_path.chmod(0o755)
    work = tmp_path / "work"
    (work / "context").mkdir(parents=True)
    (work / "store").mkdir()
    bases.busybox_tar(work / "base.tar")
    (work / "context" / "Dockerfile").write_text(DOCKERFILE.lstrip())
    for path in (work, *work.rglob("*")):
        path.chmod(0o755)
        os.chown(path, int(user), int(user))
    doctor = inside(engine, case, work, "doctor --json")
    assert doctor.returncode == 0, doctor.stderr.decode()
    findings = json.loads(doctor.stdout)
    assert findings["chosen"] == rung, doctor.stdout.decode()
    for finding in findings["rungs"]:
        assert finding["works"] or finding["detail"], finding
    built = inside(
        engine, case, work, "import base.tar base:1", "build --progress=plain -o type=tar,dest=out.tar context", "build --progress=plain context", "check"
    )  # fmt: skip
    said = built.stderr.decode()
    if rung == "none":
        assert built.returncode == 69, said
        assert "RUN cannot be executed here" in said
        return
    assert built.returncode == 0, said + built.stdout.decode()
    assert said.count("is not isolated here") == (1 if rung == "chroot" else 0), said
    with tarfile.open(work / "out.tar") as archive:
        members = {member.name: member for member in archive}
    assert "again" in members
    assert "home" not in members
    if owners:
        assert (members["own"].uid, members["own"].gid) == (5, 6)
