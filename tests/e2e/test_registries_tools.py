"""docker, podman and skopeo read from a real registry what lamina pushed there, and push what lamina pulls: with a password and TLS."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import dockerd
from lamina.testing.registry import docker_registry
from lamina.testing.registryauth import PASSWORD, USER, authority, certificate, htpasswd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="podman without root needs a user namespace of its own"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]


class Place:
    """A registry with a password and TLS, a user who is logged in to it, an image there that lamina built."""

    def __init__(self, host: str, home: Path, certificates: Path) -> None:
        self.host = host
        self.home = home
        self.certificates = certificates  # a folder with ca.crt, as docker's certs.d
        self.app = f"{host}/team/app:1"
        (home / "app").mkdir()
        (home / "app" / "Dockerfile").write_text('FROM scratch\nCOPY data /data\nCOPY note /note\nLABEL a=b\nCMD ["/data"]\n')
        (home / "app" / "data").write_bytes(os.urandom(1 << 20))
        (home / "app" / "note").write_text("one\n")
        (home / ".docker").mkdir()
        packed = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": packed}}}))
        self.lamina("build", "-q", "--push", "-t", self.app, "app")
        self.id = self.lamina("images", "-q", "--no-trunc").split()[0]

    def lamina(self, *arguments: str, root: str = "store") -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LAMINA_ROOT": str(self.home / root),
            "LAMINA_SANDBOX": "none",
            "LAMINA_REGISTRY_CA": str(self.certificates / "ca.crt"),
        }
        return self._run([sys.executable, "-m", "lamina", *arguments], environment)

    def tool(self, *arguments: str) -> str:
        return self._run(list(arguments), {**os.environ, "HOME": str(self.home), "DOCKER_CONFIG": str(self.home / ".docker")})

    def _run(self, arguments: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            arguments, env=environment, cwd=self.home, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout

    def pulled(self, name: str) -> str:
        """The id of the image as a machine sees it that has nothing."""
        self.lamina("pull", name, root=f"store-{abs(hash(name))}")
        return self.lamina("images", "-q", "--no-trunc", root=f"store-{abs(hash(name))}").strip()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    trust, home = tmp_path / "trust", tmp_path / "home"
    for folder in (trust, home):
        folder.mkdir()
    authority(trust)
    tls = certificate(trust)
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    shutil.copy(trust / "ca.crt", certificates / "ca.crt")
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", auth=htpasswd(tmp_path / "registry"), tls=tls) as host:
        yield Place(host, home, certificates)


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_skopeo(place: Place, form: str) -> None:
    login = ["--authfile", str(place.home / ".docker" / "config.json")]
    there = f"dir:{place.home}/plain"
    place.tool("skopeo", "--insecure-policy", "copy", *login, f"--src-cert-dir={place.certificates}", f"docker://{place.app}", there)
    back = f"{place.host}/team/back:{form}"
    place.tool(
        "skopeo", "--insecure-policy", "copy", *login, "--format", form, f"--dest-cert-dir={place.certificates}", there, f"docker://{back}"
    )
    assert place.pulled(back).startswith("sha256:")
    assert (place.pulled(back) == place.id) or form == "v2s2"


@pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed (make test-deps)")
def test_podman(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    short = tempfile.mkdtemp(prefix="podman-", dir="/tmp")  # podman takes no longer runroot than 50 characters
    request.addfinalizer(lambda: shutil.rmtree(short, ignore_errors=True))
    podman = ["podman", "--root", f"{tmp_path}/root", "--runroot", short, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
    trust = ["--authfile", str(place.home / ".docker" / "config.json"), f"--cert-dir={place.certificates}"]
    place.tool(*podman, "pull", *trust, place.app)
    listed = place.tool(*podman, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
    assert listed.split() == [place.app, place.id]
    back = f"{place.host}/team/back:podman"
    place.tool(*podman, "push", *trust, place.app, back)
    assert place.pulled(back) == place.id


@pytest.mark.docker
@pytest.mark.xdist_group("dockerd")
@pytest.mark.skipif(dockerd.why_not() is not None, reason=dockerd.why_not() or "")
def test_docker(place: Place) -> None:
    """Its own daemon trusts loopback without a certificate's check: the registry's password is what it needs."""
    with dockerd.daemon() as docker:
        there = {"DOCKER_CONFIG": str(place.home / ".docker")}
        docker.docker("pull", place.app, extra=there)
        seen = json.loads(docker.docker("image", "inspect", place.app).stdout)[0]
        assert seen["Id"] == place.id
        assert seen["Config"]["Labels"] == {"a": "b"}
        back = f"{place.host}/team/back:docker"
        docker.docker("tag", place.app, back)
        docker.docker("push", back, extra=there)
        assert place.pulled(back) == place.id
