"""The image config (OCI image spec, config.md, with docker's additions): what a container of the image starts with, and its history."""

from __future__ import annotations

import msgspec

from lamina.oci import typed
from lamina.oci.digest import DiffId
from lamina.oci.manifest import InvalidDocument
from lamina.oci.unreadable import UNREADABLE


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="pascal"):
    """Durations in nanoseconds, 0 = docker's default."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, rename="pascal"):
    """docker's field names. None = not set; `encode_config` leaves out what is empty, as docker does."""

    user: str = ""
    exposed_ports: dict[str, dict[str, object]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    args_escaped: bool = False
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None


class History(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "layers"
    diff_ids: tuple[DiffId, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`created` is RFC 3339. Fields that are not listed here are dropped when a new image is made upon this one."""

    created: str | None = None
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    config: ContainerConfig = ContainerConfig()
    rootfs: RootFs = RootFs()
    history: tuple[History, ...] = ()

    @property
    def diff_ids(self) -> tuple[DiffId, ...]:
        return self.rootfs.diff_ids


def parse_config(raw: bytes) -> ImageConfig:
    """Null where a list is expected is read as nothing. Raises InvalidDocument."""
    try:
        return typed.convert(_without_nulls(msgspec.json.decode(raw)), ImageConfig)
    except UNREADABLE as error:
        raise InvalidDocument(f"not an image config: {error}") from error


def encode_config(config: ImageConfig) -> bytes:
    """The bytes whose sha256 is the image id. Lists and maps that are empty are left out, as Go's omitempty does; what is no UTF-8 is U+FFFD."""
    document = msgspec.to_builtins(config)
    document["config"] = {name: value for name, value in document.get("config", {}).items() if value not in ((), {})}
    document["rootfs"] = msgspec.to_builtins(config.rootfs)
    return typed.encode_json(document)


def _without_nulls(value: object) -> object:
    """null is nothing, in a set of names (Volumes, ExposedPorts) an empty object; as Go reads it."""
    if isinstance(value, dict):
        sets = ("Volumes", "ExposedPorts")
        return {
            name: {key: {} for key in item} if name in sets and isinstance(item, dict) else _without_nulls(item)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value
