"""Real registries: Debian's docker-registry with a password, with TLS of a private authority, with tokens; skopeo reads what was pushed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.registry.errors import RegistryError
from lamina.registry.session import Session
from lamina.registry.transport import Transport, TransportSettings
from lamina.testing import ordinary
from lamina.testing.registry import docker_registry
from lamina.testing.registryauth import PASSWORD, USER, TokenService, authority, certificate, htpasswd

pytestmark = [
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]


class Machine:
    """One user: a home, a store, a working directory with a small context."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        (home / "app").mkdir()
        (home / "app" / "Dockerfile").write_text('FROM scratch\nCOPY data /data\nCOPY note /note\nCMD ["/data"]\n')
        (home / "app" / "data").write_bytes(os.urandom(3 << 20))
        (home / "app" / "note").write_text("one\n")

    def run(self, *arguments: str, stdin: str = "", ok: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LAMINA_SANDBOX": "none"}
        done = subprocess.run(
            [sys.executable, "-m", "lamina", *arguments],
            env=environment, input=stdin, cwd=self.home, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip  # one argument for each line says less
        assert not ok or done.returncode == 0, f"{arguments}: {done.stderr}"
        assert "Traceback" not in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "there")


@pytest.fixture
def room(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    authority(folder)
    certificate(folder)
    return folder


@pytest.fixture
def plain(room: Path) -> Iterator[str]:
    with docker_registry(room) as host:
        yield host


def test_build_push_pull(here: Machine, there: Machine, plain: str) -> None:
    name = f"{plain}/team/app:1"
    here.run("build", "-q", "--push", "-t", name, "--metadata-file", "meta.json", "app")
    digest = json.loads((here.home / "meta.json").read_text())["containerimage.digest"]
    assert here.run("push", "-q", name).stdout.strip() == digest
    assert "has it already" in here.run("push", name).stderr
    there.run("pull", name)
    assert there.run("push", "-q", name).stdout.strip() == digest, "an image that was pulled is pushed as it came"
    ids = [each.run("images", "-q", "--no-trunc").stdout for each in (here, there)]
    assert ids[0] == ids[1]
    if shutil.which("skopeo"):
        seen = subprocess.run(["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"], check=True, capture_output=True)
        assert json.loads(seen.stdout)["Digest"] == digest


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_reads_what_is_copied(here: Machine, plain: str, tmp_path: Path) -> None:
    here.run("build", "-q", "-t", "app:1", "app")
    digest = here.run("copy", "-q", "app:1", f"docker://{plain}/a:1").stdout.strip()
    assert here.run("copy", "-q", f"docker://{plain}/a:1", "oci:layout:one").stdout.strip() == digest
    assert here.run("copy", "-q", "oci:layout:one", "oci-archive:one.tar:one").stdout.strip() == digest
    assert here.run("copy", "-q", "oci-archive:one.tar", f"docker://{plain}/b:1").stdout.strip() == digest
    here.run("copy", "-q", f"docker://{plain}/b:1", "docker-archive:d.tar:app:2")
    for place in ("oci:layout:one", "oci-archive:one.tar:one", "docker-archive:d.tar:app:2"):
        target = f"dir:{tmp_path / place.partition(':')[0]}"
        subprocess.run(["skopeo", "--insecure-policy", "copy", place, target], check=True, capture_output=True, cwd=here.home)
    there = here.run("copy", "docker-archive:d.tar", f"docker://{plain}/c:1")
    assert there.stdout.startswith("sha256:")
    assert "d.tar" in here.run("copy", "docker-archive:d.tar:none:1", "x:1", ok=False).stderr


def test_password(here: Machine, there: Machine, room: Path) -> None:
    with docker_registry(room, auth=htpasswd(room)) as host:
        here.run("build", "-q", "-t", f"{host}/app:1", "app")
        refused = here.run("push", f"{host}/app:1", ok=False)
        assert refused.returncode == 77
        assert f"lamina login {host}" in refused.stderr
        wrong = here.run("login", "-u", USER, "--password-stdin", host, stdin="wrong", ok=False)
        assert wrong.returncode == 77
        assert not (here.home / ".docker").exists()
        here.run("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD + "\n")
        file = here.home / ".docker" / "config.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        here.run("push", f"{host}/app:1")
        (here.home / "app" / "Dockerfile").write_text(f"FROM {host}/app:1\nCOPY note /again\n")
        here.run("build", "-q", "--pull", "--push", "-t", f"{host}/more:1", "app")
        assert there.run("pull", f"{host}/more:1", ok=False).returncode == 77
        here.run("logout", host)
        assert here.run("pull", f"{host}/app:1", ok=False).returncode == 77


def test_private_authority(here: Machine, room: Path, trust: Path) -> None:
    with docker_registry(room, tls=(trust / "server.pem", trust / "server.key")) as host:
        here.run("build", "-q", "-t", f"{host}/app:1", "app")
        refused = here.run("push", f"{host}/app:1", ok=False)
        assert refused.returncode != 0
        assert "certificate" in refused.stderr
        here.run("push", "--registry-ca", str(trust / "ca.crt"), f"{host}/app:1")
        here.run("pull", "--registry-ca", str(trust / "ca.crt"), f"{host}/app:1")


def test_certificates_of_a_host(room: Path, trust: Path, tmp_path: Path) -> None:
    with docker_registry(room, tls=(trust / "server.pem", trust / "server.key")) as host:
        place = tmp_path / "certs.d" / host
        place.mkdir(parents=True)
        shutil.copy(trust / "ca.crt", place / "ca.crt")
        with_ = Session(Transport(TransportSettings(certificates=(tmp_path / "certs.d",))))
        with_.check(host)
        assert with_.base(host).startswith("https://")
        with pytest.raises(RegistryError):
            Session(Transport(TransportSettings(attempts=1))).check(host)


def test_tokens(here: Machine, there: Machine, room: Path, trust: Path) -> None:
    with TokenService(trust) as service, docker_registry(room, auth=service.section) as host:
        here.run("build", "-q", "-t", f"{host}/team/app:1", "app")
        assert here.run("push", f"{host}/team/app:1", ok=False).returncode == 77
        here.run("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD)
        here.run("push", f"{host}/team/app:1")
        service.asked.clear()
        moved = here.run("push", f"{host}/team/app:1", f"{host}/other/app:1")
        assert "2 mounted" in moved.stderr
        scopes = [query["scope"] for _, query in service.asked]
        assert ["repository:other/app:pull,push", "repository:team/app:pull"] in scopes
        there.run("pull", f"{host}/other/app:1")


@pytest.mark.root
@pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or "")
def test_an_ordinary_user(room: Path) -> None:
    """The process is in a user namespace then: logins are read and written there too, and stay the user's."""
    ordinary.make_user()
    with tempfile.TemporaryDirectory(prefix="lamina-registries-", dir="/tmp") as made, docker_registry(room, auth=htpasswd(room)) as host:
        home = Path(made)
        home.chmod(0o755)
        (home / "Dockerfile").write_text("FROM scratch\nCOPY data /data\n")
        (home / "data").write_bytes(os.urandom(100_000))
        (home / ".docker").mkdir()
        packed = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": packed}}}))
        for arguments in (
            ("build", "-q", "--push", "-t", f"{host}/a:1", "."),
            ("push", "--compression", "zstd", f"{host}/a:1", f"{host}/b:1"),
            ("pull", f"{host}/b:1"),
            ("copy", f"docker://{host}/b:1", "oci:layout:1"),
            ("logout", host),
        ):
            done = ordinary.run(["-m", "lamina", *arguments], home)
            assert done.returncode == 0, done.stderr
        file = home / ".docker" / "config.json"
        assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (ordinary.UID, 0o600)
        assert json.loads(file.read_text()) == {"auths": {}}
