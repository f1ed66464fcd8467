"""Other tools read what is saved here, and what they write is read here: skopeo, buildah, dockerd, Debian's docker-registry."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.exporters.export import export, save
from lamina.engine.exporters.output import parse_output
from lamina.engine.images.importing import load, pull
from lamina.engine.images.layers import ensure_layers
from lamina.engine.images.recording import record_built, stored_layers
from lamina.layer.flavour import Flavour, IdMap
from lamina.layer.pack import diff_id
from lamina.layer.view import LayerView
from lamina.oci.config import parse_config
from lamina.oci.digest import DiffId, LayerId
from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.testing import dockerd
from lamina.testing.images import busybox_image, index_of, push, simple_image, tar_of, write_layout
from lamina.testing.registry import docker_registry, push_blob, push_manifest

AMD = Platform("linux", "amd64")
NAME = "docker.io/library/app:1"
FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
WITH_DOCKER = dockerd.why_not()

needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
needs_registry = pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")
pytestmark = pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed")


def opened(path: Path) -> LocalStore:
    return LocalStore.open(path, FLAVOUR, now=lambda: 1_700_000_000.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with opened(tmp_path / "store") as found:
        yield found


@pytest.fixture
def image(store: LocalStore, tmp_path: Path) -> Image:
    """A pulled base (gzip blob, no directory) below a layer that was built here (directory, no blob)."""
    base = busybox_image()
    write_layout(tmp_path / "base", [(base, "1")])
    (below,) = load(store, tmp_path / "base", AMD)
    active = store.layers.begin()
    (active.upper / "built").write_bytes(b"made here\n")
    (active.upper / "built").chmod(0o644)
    layer = LayerId("diff:" + "1" * 64)
    found, _ = diff_id(store.layers.commit(active, layer, LayerFacts()).parent, FLAVOUR)
    document = json.loads(base.config)
    document["rootfs"]["diff_ids"].append(found)
    document["history"].append({"created_by": "RUN echo"})
    config = json.dumps(document).encode()
    layers = [(below.layers[0], DiffId(below.layers[0])), (layer, found)]
    return record_built(store, config, layers, [NAME], stored=stored_layers(store, below))


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stderr}"
    return done.stdout


def copied(source: str, target: str, *options: str) -> None:
    run("skopeo", "copy", "--insecure-policy", "-q", *options, source, target)


def written(store: LocalStore, image: Image, path: Path, kind: str) -> Path:
    dest = f"{path}/" if kind == "folder" else str(path)
    type_ = "oci,tar=false" if kind == "folder" else kind
    export(store, [image], parse_output(f"type={type_},dest={dest}"), io.BytesIO())
    return path


@needs_skopeo
@pytest.mark.parametrize(
    ("kind", "source"), [("docker", "docker-archive:{}"), ("oci", "oci-archive:{}"), ("folder", "oci:{}:1"), ("docker", "oci-archive:{}:1")]
)
def test_skopeo_reads(store: LocalStore, image: Image, tmp_path: Path, kind: str, source: str) -> None:
    path = written(store, image, tmp_path / "out", kind)
    copied(source.format(path), f"dir:{tmp_path}/dir")
    manifest = json.loads((tmp_path / "dir" / "manifest.json").read_bytes())
    assert manifest["config"]["digest"] == image.id
    found = parse_config((tmp_path / "dir" / image.id.removeprefix("sha256:")).read_bytes())
    assert len(found.diff_ids) == 2


@needs_skopeo
def test_skopeo_reads_the_store_in_place(store: LocalStore, tmp_path: Path) -> None:
    write_layout(tmp_path / "base", [(busybox_image(), "docker.io/library/base:1")])
    (image,) = load(store, tmp_path / "base", AMD)
    copied(f"oci:{store.layout.root}:docker.io/library/base:1", f"dir:{tmp_path}/dir")
    assert json.loads((tmp_path / "dir" / "manifest.json").read_bytes())["config"]["digest"] == image.id


@needs_skopeo
@pytest.mark.parametrize("target", ["docker-archive:{}:app:1", "oci-archive:{}:app:1", "oci:{}:app:1"])
def test_skopeo_writes(store: LocalStore, image: Image, tmp_path: Path, target: str) -> None:
    path = written(store, image, tmp_path / "out", "docker")
    copied(f"docker-archive:{path}", target.format(tmp_path / "theirs"))
    with opened(tmp_path / "other") as other:
        (loaded,) = load(other, tmp_path / "theirs", AMD)
        if target.startswith("docker"):
            assert loaded.id == image.id  # to OCI skopeo writes the config anew
        assert loaded.names == (NAME,)
        view = LayerView(ensure_layers(other, loaded), FLAVOUR)
        assert view.open(b"built").read() == b"made here\n"
        assert view.resolve(b"bin/sh") == b"bin/busybox"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="buildah without root needs a user namespace of its own")
@pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed")
@pytest.mark.parametrize(("kind", "source"), [("docker", "docker-archive:{}"), ("oci", "oci-archive:{}")])
def test_buildah_reads_and_writes(store: LocalStore, image: Image, tmp_path: Path, kind: str, source: str) -> None:
    path = written(store, image, tmp_path / "out", kind)
    policy = tmp_path / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    buildah = ["buildah", "--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]
    pulled = run(*buildah, "pull", "-q", "--policy", "always", "--signature-policy", str(policy), source.format(path)).strip()
    assert f"sha256:{pulled}" == image.id
    run(*buildah, "push", "-q", "--signature-policy", str(policy), pulled, f"docker-archive:{tmp_path}/theirs.tar:app:1")
    with opened(tmp_path / "other") as other:
        (loaded,) = load(other, tmp_path / "theirs.tar", AMD)
        assert loaded.names == (NAME,)
        assert LayerView(ensure_layers(other, loaded), FLAVOUR).open(b"built").read() == b"made here\n"


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.skipif(WITH_DOCKER is not None, reason=WITH_DOCKER or "")
def test_docker_loads_runs_and_saves(store: LocalStore, image: Image, tmp_path: Path) -> None:
    with (tmp_path / "out.tar").open("wb") as out:
        save(store, [(image, None), (image, ["docker.io/team/second:x"])], out)
    with dockerd.daemon() as daemon:
        said = daemon.docker("load", "-i", str(tmp_path / "out.tar")).stdout.decode()
        assert "app:1" in said
        assert "team/second:x" in said
        assert daemon.docker("inspect", "-f", "{{.Id}}", "app:1").stdout.decode().strip() == image.id
        assert daemon.docker("run", "--rm", "--network=none", "app:1", "cat", "/built").stdout == b"made here\n"
        daemon.docker("save", "-o", str(tmp_path / "theirs.tar"), "app:1", "team/second:x")
        daemon.docker("save", "-o", str(tmp_path / "by-id.tar"), image.id)
    with opened(tmp_path / "other") as other:
        names = {name for each in load(other, tmp_path / "theirs.tar", AMD) for name in each.names}
        assert names == {NAME, "docker.io/team/second:x"}
        (unnamed,) = load(other, tmp_path / "by-id.tar", AMD)
        assert unnamed.id == image.id


@needs_registry
def test_pull_from_a_real_registry(store: LocalStore, tmp_path: Path) -> None:
    amd, arm = busybox_image(), simple_image([tar_of({"f": b"arm"})], architecture="arm64")
    with docker_registry(tmp_path) as host:
        push(host, "team/base", "amd", amd)
        push(host, "team/base", "arm", arm)
        index = index_of([(amd, {"os": "linux", "architecture": "amd64"}), (arm, {"os": "linux", "architecture": "arm64"})])
        digest = push_manifest(host, "team/base", "all", index, "application/vnd.oci.image.index.v1+json")
        push_blob(host, "team/base", b"unrelated")
        client = RegistryClient(Transport())
        reference = Reference.parse(f"{host}/team/base:all")
        assert client.digest_of(reference) == digest
        image = pull(store, client, reference, AMD)
        assert image.manifest == amd.digest
        other = pull(store, client, reference, Platform("linux", "arm64"))
        assert other.manifest == arm.digest
        assert other.platform == "linux/arm64"
    view = LayerView(ensure_layers(store, image), FLAVOUR)
    assert view.resolve(b"bin/sh") == b"bin/busybox"


@needs_registry
@needs_skopeo
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_pull_what_skopeo_pushed(store: LocalStore, image: Image, tmp_path: Path, form: str) -> None:
    path = written(store, image, tmp_path / "out", "docker")
    with docker_registry(tmp_path) as host, opened(tmp_path / "other") as other:
        copied(f"docker-archive:{path}", f"docker://{host}/app:1", "--dest-tls-verify=false", "--format", form)
        found = pull(other, RegistryClient(Transport()), Reference.parse(f"{host}/app:1"), AMD)
        if form == "v2s2":
            assert found.id == image.id  # to OCI skopeo writes the config anew
        assert LayerView(ensure_layers(other, found), FLAVOUR).open(b"built").read() == b"made here\n"


def test_the_files_as_tar(store: LocalStore, image: Image, tmp_path: Path) -> None:
    path = written(store, image, tmp_path / "root.tar", "tar")
    run("tar", "-tf", str(path))
    with tarfile.open(path) as tar:
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("built").size == 10
