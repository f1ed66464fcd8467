"""Freshness with a real registry: bases that move, rebuilt and rebased images with RUN steps, notifications, attestations that others read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import dockerd, ordinary
from lamina.testing.images import busybox_tar, push, simple_image, tar_of
from lamina.testing.project import Project
from lamina.testing.registry import docker_registry, free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="RUN steps are run as root here"),
    pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed"),
    pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed"),
]


@pytest.fixture
def hook() -> int:
    return free_port()


@pytest.fixture
def registry(tmp_path: Path, hook: int) -> Iterator[str]:
    folder = tmp_path / "registry"
    folder.mkdir()
    notify = f"notifications: {{endpoints: [{{name: hook, url: 'http://127.0.0.1:{hook}/', timeout: 2s, threshold: 1, backoff: 200ms}}]}}\n"
    with docker_registry(folder, auth=notify) as host:
        yield host


@pytest.fixture
def project(tmp_path: Path, registry: str) -> Project:
    (tmp_path / "context").mkdir()
    made = Project(tmp_path / "context", tmp_path / "store")
    release(registry, 1)
    made.dockerfile(f"""
        FROM {registry}/base:1 AS tools
        RUN echo made > /made
        FROM {registry}/base:1
        COPY --from=tools /made /made
        RUN mkdir -p /srv && echo own > /srv/own
    """)
    return made


def release(host: str, number: int, **files: bytes) -> str:
    layer = tar_of({"etc": None, "etc/release": f"{number}\n".encode(), **{name.replace("_", "/"): data for name, data in files.items()}})
    return push(host, "base", "1", simple_image([busybox_tar(), layer]))


def lamina(project: Project, *arguments: str, code: int = 0) -> str:
    done = project.run(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


def content(project: Project, name: str, path: str) -> str:
    folder = project.root.parent / "read"
    shutil.rmtree(folder, ignore_errors=True)
    (project.folder / "Reading").write_text(f"FROM {name}\n")
    lamina(project, "build", "-q", "-f", str(project.folder / "Reading"), "-o", str(folder), str(project.folder))
    return (folder / path).read_text()


def test_outdated_and_rebuilt_with_runs(project: Project, registry: str) -> None:
    project.build("-t", "app:1")
    assert "0 of 1 images outdated" in project.run("outdated").stderr.decode()
    release(registry, 2)
    said = lamina(project, "outdated", code=3)
    assert "stage tools: follows" in said
    document = json.loads(lamina(project, "outdated", "--rebuild", "--json"))
    (rebuilt,) = document["rebuilt"]
    assert rebuilt["outcome"] == "rebuilt"
    assert rebuilt["ran"] == 3, "what the COPY takes is the same; it stands on another base"
    assert content(project, "app:1", "etc/release") == "2\n"
    assert "0 of 1 images outdated" in project.run("outdated").stderr.decode()


def test_rebased_and_refused(project: Project, registry: str) -> None:
    project.build("-t", "app:1")
    release(registry, 2)
    done = project.run("rebase", "app:1")
    assert done.returncode == 0, done.stderr.decode()
    assert "1 RUN above" in done.stderr.decode()
    assert "stage tools: what was copied from there is of the old base" in done.stderr.decode()
    assert (content(project, "app:1", "etc/release"), content(project, "app:1", "srv/own")) == ("2\n", "own\n")
    release(registry, 3, srv_own=b"theirs\n")
    done = project.run("rebase", "app:1")
    assert done.returncode == 1
    assert "/srv/own differs" in done.stderr.decode()
    assert "lamina outdated --rebuild" in done.stderr.decode()
    assert project.run("rebase", "--strict", "app:1").returncode == 1


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_others_read_what_has_attestations(project: Project, registry: str, tmp_path: Path) -> None:
    project.build("-t", f"{registry}/app:1", "--push", "--provenance=max", "--sbom=spdx", "--sbom=cyclonedx")
    where = f"docker://{registry}/app:1"
    raw = subprocess.run(["skopeo", "inspect", "--tls-verify=false", "--raw", where], capture_output=True, check=True).stdout
    assert [each["platform"]["os"] for each in json.loads(raw)["manifests"]] == ["linux", "unknown"]
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", where, f"dir:{tmp_path}/copied"], check=True)
    assert (tmp_path / "copied" / "manifest.json").is_file()
    subprocess.run(["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", where, f"oci:{tmp_path}/all:1"], check=True)
    lamina(project, "copy", f"oci:{tmp_path}/all:1", f"docker://{registry}/again:1")


@pytest.mark.parametrize(
    "command",
    [
        ["podman", "manifest", "inspect", "{image}"],
        ["docker", "manifest", "inspect", "--insecure", "{image}"],
        ["docker", "buildx", "imagetools", "inspect", "--raw", "{image}"],
        ["skopeo", "inspect", "--tls-verify=false", "--raw", "docker://{image}"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_others_list_an_index_with_attestations(project: Project, registry: str, tmp_path: Path, command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    if "buildx" in command and subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no buildx here")
    project.build("-t", f"{registry}/app:1", "--push", "--provenance=max", "--sbom=spdx")
    settings = tmp_path / "registries.conf"  # podman manifest has no option for a registry without TLS
    settings.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    environment = {**os.environ, "CONTAINERS_REGISTRIES_CONF": str(settings)}
    done = subprocess.run([word.format(image=f"{registry}/app:1") for word in command], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    listed = json.loads(done.stdout)["manifests"]
    assert [each["platform"]["os"] for each in listed] == ["linux", "unknown"]
    if "skopeo" in command:
        reference = listed[1]["annotations"]
        assert reference["vnd.docker.reference.type"] == "attestation-manifest"
        assert reference["vnd.docker.reference.digest"] == listed[0]["digest"]


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_others_take_their_platform_out_of_the_index(project: Project, registry: str, tmp_path: Path) -> None:
    project.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /machine\n")
    project.write({"amd64": "amd64", "arm64": "arm64"})
    project.build("-t", f"{registry}/both:1", "--platform", "linux/amd64,linux/arm64", "--push", "--provenance=min")
    for machine in ("amd64", "arm64"):
        target = tmp_path / machine
        command = [
            "skopeo",
            "--override-arch",
            machine,
            "copy",
            "-q",
            "--src-tls-verify=false",
            f"docker://{registry}/both:1",
            f"dir:{target}",
        ]
        subprocess.run(command, check=True)
        manifest = json.loads((target / "manifest.json").read_text())
        assert json.loads((target / manifest["config"]["digest"][7:]).read_text())["architecture"] == machine


@pytest.mark.docker
@pytest.mark.skipif(dockerd.why_not() is not None, reason=str(dockerd.why_not()))
def test_docker_pulls_and_runs_what_has_attestations(project: Project, registry: str) -> None:
    project.build("-t", f"{registry}/app:1", "--push", "--provenance=max", "--sbom=spdx")
    with dockerd.daemon() as daemon:
        daemon.docker("pull", "-q", f"{registry}/app:1")
        run = daemon.docker("run", "--rm", "--network=none", f"{registry}/app:1", "cat", "/srv/own")
    assert run.stdout == b"own\n"


def test_a_push_wakes_the_watch_which_rebuilds(project: Project, registry: str, hook: int, tmp_path: Path) -> None:
    project.build("-t", "app:1")
    report = tmp_path / "watch.json"
    command = [
        sys.executable,
        "-m",
        "lamina",
        "watch",
        "--rebuild",
        "--interval",
        "1d",
        "--webhook",
        f"127.0.0.1:{hook}",
        "--report",
        str(report),
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LAMINA_ROOT": str(project.root)}
    with (tmp_path / "watch.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
        try:
            wait_for(process, report, lambda rounds: bool(rounds))
            release(registry, 2)
            wait_for(process, report, lambda rounds: any(each.get("rebuilt") for each in rounds))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0, (tmp_path / "watch.log").read_text()
    woken = next(each for each in json.loads(report.read_text())["rounds"] if each.get("rebuilt"))
    assert woken["because"] == "push"
    assert woken["pushed"] == [f"{registry}/base:1"]
    assert content(project, "app:1", "etc/release") == "2\n"


def wait_for(process: subprocess.Popen[bytes], report: Path, there: object) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None
        rounds = json.loads(report.read_text())["rounds"] if report.exists() else []
        if callable(there) and there(rounds):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing came: {report.read_text() if report.exists() else 'no report'}")


@pytest.mark.rootless
@pytest.mark.xdist_group("rootless")
@pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or "")
def test_an_ordinary_user_watches_rebases_and_lists(registry: str) -> None:
    release(registry, 1)
    home = Path(tempfile.mkdtemp(prefix="lamina-fresh-", dir="/var/tmp"))
    try:
        ordinary.make_user()
        (home / "app").mkdir()
        (home / "app" / "Dockerfile").write_text(f"FROM {registry}/base:1\nRUN echo own > /own\n")

        def lamina(*arguments: str) -> str:
            done = ordinary.run(["-m", "lamina", *arguments], home, {"XDG_DATA_HOME": str(home / "data")})
            assert done.returncode == 0, done.stderr
            return done.stdout

        lamina("build", "-q", "-t", "app:1", "app")
        release(registry, 2)
        said = lamina("watch", "--once", "--rebuild", "--webhook", "127.0.0.1:0", "--report", "report.json")
        assert "REBUILT    app:1" in said
        assert json.loads((home / "report.json").read_text())["rounds"][0]["rebuilt"][0]["ran"] == 1
        release(registry, 3)
        lamina("rebase", "app:1")
        assert [image["verdict"] for image in json.loads(lamina("outdated", "--json"))["images"]] == ["current"]
        lamina("sbom", "app:1")
    finally:
        shutil.rmtree(home)
