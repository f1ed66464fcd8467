"""The shapes of what clients send about containers, checked once at the door: a field of another type is a refusal there, not a failure later.

Only fields that are looked into are named; what else comes is kept as it is. docker's server refuses the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lamina.oci import typed
from lamina.server.errors import BadRequest

_T = TypeVar("_T", bound=Mapping[str, Any])
Words = list[str] | str | None
_Set = dict[str, dict[str, Any] | None] | None


class _Log(msgspec.Struct):
    Type: str | None = None
    Config: dict[str, str] | None = None


class _Policy(msgspec.Struct):
    Name: str | None = None
    MaximumRetryCount: int | None = None


class _Tmpfs(msgspec.Struct):
    SizeBytes: int | None = None
    Mode: int | None = None


class _VolumeOptions(msgspec.Struct):
    Subpath: str | None = None


class _Mount(msgspec.Struct):
    Type: str = "volume"
    Source: str | None = None
    Target: str = ""
    TmpfsOptions: _Tmpfs | None = None
    VolumeOptions: _VolumeOptions | None = None
    BindOptions: dict[str, Any] | None = None


class _Binding(msgspec.Struct):
    HostIp: str | None = None
    HostPort: str | None = None


class _Limit(msgspec.Struct):
    Name: str
    Soft: int
    Hard: int


class _Host(msgspec.Struct):
    Binds: list[str] | None = None
    Mounts: list[_Mount] | None = None
    Tmpfs: dict[str, str] | None = None
    PortBindings: dict[str, list[_Binding] | None] | None = None
    LogConfig: _Log | None = None
    RestartPolicy: _Policy | None = None
    CapAdd: list[str] | None = None
    CapDrop: list[str] | None = None
    Dns: list[str] | None = None
    DnsOptions: list[str] | None = None
    DnsSearch: list[str] | None = None
    ExtraHosts: list[str] | None = None
    SecurityOpt: list[str] | None = None
    VolumesFrom: list[str] | None = None
    Ulimits: list[_Limit] | None = None
    NetworkMode: str | None = None
    ConsoleSize: list[int] | None = None
    Memory: int | None = None
    NanoCpus: int | None = None
    CpuPeriod: int | None = None
    CpuQuota: int | None = None
    PidsLimit: int | None = None
    ShmSize: int | None = None


class _Health(msgspec.Struct):
    Test: list[str] | None = None
    Interval: int | None = None
    Timeout: int | None = None
    Retries: int | None = None
    StartPeriod: int | None = None
    StartInterval: int | None = None


class _Networking(msgspec.Struct):
    EndpointsConfig: dict[str, dict[str, Any] | None] | None = None


class _Body(msgspec.Struct):
    Image: str | None = None
    Hostname: str | None = None
    Domainname: str | None = None
    User: str | None = None
    WorkingDir: str | None = None
    StopSignal: str | None = None
    StopTimeout: int | None = None
    Entrypoint: Words = None
    Cmd: Words = None
    Shell: list[str] | None = None
    Env: list[str] | None = None
    Labels: dict[str, str] | None = None
    ExposedPorts: _Set = None
    Volumes: _Set = None
    Healthcheck: _Health | None = None
    HostConfig: _Host | None = None
    NetworkingConfig: _Networking | None = None


def checked_body(body: _T) -> _T:
    """`body` of POST /containers/create. BadRequest."""
    try:
        typed.convert(body, _Body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"invalid JSON: {error}") from None
    return body
