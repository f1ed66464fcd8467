"""Base images for tests, made without docker and without lamina's own code: a reader is not tested by its own writer."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lamina.testing.registry import MemoryRegistry, push_blob, push_manifest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYERS = {"": "application/vnd.oci.image.layer.v1.tar", "gzip": "application/vnd.oci.image.layer.v1.tar+gzip"}
_LAYERS["zstd"] = "application/vnd.oci.image.layer.v1.tar+zstd"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class SimpleLayer:
    plain: bytes  # the tar
    blob: bytes  # as stored
    media_type: str


@dataclass(frozen=True, slots=True)
class SimpleImage:
    config: bytes
    manifest: bytes
    layers: tuple[SimpleLayer, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    def blobs(self) -> dict[str, bytes]:
        """Everything but the manifest, by digest."""
        return {digest_of(data): data for data in (self.config, *(layer.blob for layer in self.layers))}


def tar_of(files: Mapping[str, bytes | str | None], *, mode: int = 0o644) -> bytes:
    """A tar: bytes = a file, str = a symlink, None = a folder. Owner 0:0, mtime 0."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content, 0o777
                tar.addfile(info)
            else:
                info.size = len(content)
                info.mode = 0o755 if name.startswith("bin/") else mode
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@cache
def busybox_tar() -> bytes:
    """A root filesystem of a static busybox with its applets as symlinks. FileNotFoundError where there is no busybox."""
    program = shutil.which("busybox")
    if program is None:
        raise FileNotFoundError("busybox is not installed")
    applets = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split()
    files: dict[str, bytes | str | None] = dict.fromkeys(("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"))
    files["bin/busybox"] = Path(program).read_bytes()
    files |= {f"bin/{name}": "busybox" for name in sorted(applets) if name != "busybox"}
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    files["etc/group"] = b"root:x:0:\nnobody:x:65534:\n"
    return tar_of(files)


def simple_image(
    tars: Sequence[bytes],
    *,
    compression: str = "gzip",
    architecture: str = "amd64",
    variant: str = "",
    config: Mapping[str, object] | None = None,
) -> SimpleImage:
    """An OCI image over these layers. `compression`: "gzip", "zstd" or "" for plain. `config`: its `config` object."""
    layers = tuple(SimpleLayer(tar, _compressed(tar, compression), _LAYERS[compression]) for tar in tars)
    document: dict[str, object] = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config or {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]}),
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": [{"created_by": f"layer {number}"} for number in range(len(tars))],
    }
    if variant:
        document["variant"] = variant
    raw = json.dumps(document).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(raw), "size": len(raw)},
        "layers": [{"mediaType": each.media_type, "digest": digest_of(each.blob), "size": len(each.blob)} for each in layers],
    }
    return SimpleImage(raw, json.dumps(manifest, indent=1).encode(), layers)


def busybox_image(*, architecture: str = "amd64") -> SimpleImage:
    return simple_image([busybox_tar()], architecture=architecture)


def index_of(images: Sequence[tuple[SimpleImage, Mapping[str, str]]]) -> bytes:
    """An OCI index; each image with its platform object."""
    entries = [{"mediaType": OCI_MANIFEST, "digest": i.digest, "size": len(i.manifest), "platform": dict(p)} for i, p in images]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def write_layout(folder: Path, images: Sequence[tuple[SimpleImage, str]]) -> None:
    """An OCI layout directory; each image with its ref.name ("" for none)."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entries = []
    for image, name in images:
        for digest, data in {**image.blobs(), image.digest: image.manifest}.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        entry: dict[str, object] = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
        if name:
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        entries.append(entry)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def old_docker_archive(images: Sequence[tuple[SimpleImage, Sequence[str]]]) -> bytes:
    """As docker before 25 wrote it: HEX.json, ID/layer.tar, manifest.json; a layer that comes again is a symlink to the first."""
    out = io.BytesIO()
    first: dict[str, str] = {}
    entries = []
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number, (image, names) in enumerate(images):
            members = []
            for position, layer in enumerate(image.layers):
                folder = hashlib.sha256(f"{number}/{position}".encode()).hexdigest()
                name = f"{folder}/layer.tar"
                diff_id = digest_of(layer.plain)
                if diff_id in first:
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = tarfile.SYMTYPE, f"../{first[diff_id]}"
                    tar.addfile(info)
                else:
                    first[diff_id] = name
                    add(name, layer.plain)
                add(f"{folder}/VERSION", b"1.0")
                members.append(name)
            config = digest_of(image.config).removeprefix("sha256:") + ".json"
            add(config, image.config)
            entries.append({"Config": config, "RepoTags": list(names) or None, "Layers": members})
        add("manifest.json", json.dumps(entries).encode())
    return out.getvalue()


def serve(registry: MemoryRegistry, repository: str, tag: str, image: SimpleImage) -> str:
    """Into the memory registry; returns the manifest's digest."""
    for data in image.blobs().values():
        registry.put_blob(data)
    return registry.put_manifest(repository, image.manifest, OCI_MANIFEST, tag)


def push(host: str, repository: str, tag: str, image: SimpleImage) -> str:
    """To any registry with plain HTTP calls; returns the manifest's digest."""
    for data in image.blobs().values():
        push_blob(host, repository, data)
    return push_manifest(host, repository, tag, image.manifest, OCI_MANIFEST)


def _compressed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if compression == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=data, check=True, capture_output=True).stdout
    return data
