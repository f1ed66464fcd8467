"""The messages that BuildKit's clients and we exchange, with the fields that one of us reads."""

# ruff: noqa: RUF012  # msgspec gives each struct its own copy of a default

from __future__ import annotations

from typing import Annotated

from lamina.server.buildkit.wire import Message


class Nothing(Message):
    """Any message whose fields do not matter."""


class Timestamp(Message):
    seconds: Annotated[int, 1] = 0
    nanos: Annotated[int, 2] = 0


class Bytes(Message):
    data: Annotated[bytes, 1] = b""


# What a client's session offers


class Stat(Message):
    path: Annotated[bytes, 1] = b""  # names are bytes, whatever the declaration elsewhere says
    mode: Annotated[int, 2] = 0  # Go's FileMode
    uid: Annotated[int, 3] = 0
    gid: Annotated[int, 4] = 0
    size: Annotated[int, 5] = 0
    mod_time: Annotated[int, 6] = 0  # nanoseconds
    linkname: Annotated[bytes, 7] = b""
    devmajor: Annotated[int, 8] = 0
    devminor: Annotated[int, 9] = 0
    xattrs: Annotated[dict[str, bytes], 10] = {}


class Packet(Message):
    """STAT, REQ, DATA, FIN, ERR = 0 … 4."""

    type: Annotated[int, 1] = 0
    stat: Annotated[Stat | None, 2] = None
    id: Annotated[int, 3] = 0
    data: Annotated[bytes, 4] = b""


class GetSecretRequest(Message):
    id: Annotated[str, 1] = ""
    annotations: Annotated[dict[str, str], 2] = {}


class GetSecretResponse(Message):
    data: Annotated[bytes, 1] = b""


class CheckAgentRequest(Message):
    id: Annotated[str, 1] = ""


class CredentialsRequest(Message):
    host: Annotated[str, 1] = ""


class CredentialsResponse(Message):
    username: Annotated[str, 1] = ""
    secret: Annotated[str, 2] = ""


# Progress


class Vertex(Message):
    digest: Annotated[str, 1] = ""
    inputs: Annotated[list[str], 2] = []
    name: Annotated[str, 3] = ""
    cached: Annotated[bool, 4] = False
    started: Annotated[Timestamp | None, 5] = None
    completed: Annotated[Timestamp | None, 6] = None
    error: Annotated[str, 7] = ""


class VertexStatus(Message):
    id: Annotated[str, 1] = ""
    vertex: Annotated[str, 2] = ""
    name: Annotated[str, 3] = ""
    current: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    timestamp: Annotated[Timestamp | None, 6] = None
    started: Annotated[Timestamp | None, 7] = None
    completed: Annotated[Timestamp | None, 8] = None


class VertexLog(Message):
    vertex: Annotated[str, 1] = ""
    timestamp: Annotated[Timestamp | None, 2] = None
    stream: Annotated[int, 3] = 0
    msg: Annotated[bytes, 4] = b""


class VertexWarning(Message):
    vertex: Annotated[str, 1] = ""
    level: Annotated[int, 2] = 0
    short: Annotated[bytes, 3] = b""
    detail: Annotated[list[bytes], 4] = []
    url: Annotated[str, 5] = ""


class StatusRequest(Message):
    ref: Annotated[str, 1] = ""


class StatusResponse(Message):
    vertexes: Annotated[list[Vertex], 1] = []
    statuses: Annotated[list[VertexStatus], 2] = []
    logs: Annotated[list[VertexLog], 3] = []
    warnings: Annotated[list[VertexWarning], 4] = []


# The control API


class Definition(Message):
    """LLB. Only whether there is any is looked at."""

    operations: Annotated[list[bytes], 1] = []


class Exporter(Message):
    type: Annotated[str, 1] = ""
    attrs: Annotated[dict[str, str], 2] = {}
    id: Annotated[str, 3] = ""


class CacheEntry(Message):
    type: Annotated[str, 1] = ""
    attrs: Annotated[dict[str, str], 2] = {}


class CacheOptions(Message):
    export_ref: Annotated[str, 1] = ""
    import_refs: Annotated[list[str], 2] = []
    exports: Annotated[list[CacheEntry], 4] = []
    imports: Annotated[list[CacheEntry], 5] = []


class SolveRequest(Message):
    ref: Annotated[str, 1] = ""
    definition: Annotated[Definition | None, 2] = None
    exporter: Annotated[str, 3] = ""
    exporter_attrs: Annotated[dict[str, str], 4] = {}
    session: Annotated[str, 5] = ""
    frontend: Annotated[str, 6] = ""
    frontend_attrs: Annotated[dict[str, str], 7] = {}
    cache: Annotated[CacheOptions | None, 8] = None
    entitlements: Annotated[list[str], 9] = []
    frontend_inputs: Annotated[dict[str, Definition], 10] = {}
    internal: Annotated[bool, 11] = False
    exporters: Annotated[list[Exporter], 13] = []


class SolveResponse(Message):
    exporter_response: Annotated[dict[str, str], 1] = {}


class UsageRecord(Message):
    id: Annotated[str, 1] = ""
    mutable: Annotated[bool, 2] = False
    in_use: Annotated[bool, 3] = False
    size: Annotated[int, 4] = 0
    created: Annotated[Timestamp | None, 6] = None
    last_used: Annotated[Timestamp | None, 7] = None
    usage_count: Annotated[int, 8] = 0
    description: Annotated[str, 9] = ""
    record_type: Annotated[str, 10] = ""
    shared: Annotated[bool, 11] = False


class DiskUsageRequest(Message):
    filter: Annotated[list[str], 1] = []


class DiskUsageResponse(Message):
    record: Annotated[list[UsageRecord], 1] = []


class PruneRequest(Message):
    filter: Annotated[list[str], 1] = []
    all: Annotated[bool, 2] = False
    keep_duration: Annotated[int, 3] = 0  # nanoseconds
    keep_bytes: Annotated[int, 4] = 0
    max_used_space: Annotated[int, 5] = 0


class Platform(Message):
    architecture: Annotated[str, 1] = ""
    os: Annotated[str, 2] = ""
    variant: Annotated[str, 3] = ""


class BuildkitVersion(Message):
    package: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    revision: Annotated[str, 3] = ""


class WorkerRecord(Message):
    id: Annotated[str, 1] = ""
    labels: Annotated[dict[str, str], 2] = {}
    platforms: Annotated[list[Platform], 3] = []
    version: Annotated[BuildkitVersion | None, 5] = None


class ListWorkersResponse(Message):
    record: Annotated[list[WorkerRecord], 1] = []


class InfoResponse(Message):
    version: Annotated[BuildkitVersion | None, 1] = None


# The gateway: what a client's own build function calls


class Capability(Message):
    id: Annotated[str, 1] = ""
    enabled: Annotated[bool, 2] = False


class PongResponse(Message):
    frontend: Annotated[list[Capability], 1] = []
    llb: Annotated[list[Capability], 2] = []
    workers: Annotated[list[WorkerRecord], 3] = []


class GatewaySolveRequest(Message):
    definition: Annotated[Definition | None, 1] = None
    frontend: Annotated[str, 2] = ""
    frontend_opt: Annotated[dict[str, str], 3] = {}
    cache_imports: Annotated[list[CacheEntry], 12] = []
    frontend_inputs: Annotated[dict[str, Definition], 13] = {}


class Ref(Message):
    id: Annotated[str, 1] = ""


class Result(Message):
    ref: Annotated[Ref | None, 3] = None
    metadata: Annotated[dict[str, bytes], 10] = {}


class GatewaySolveResponse(Message):
    ref: Annotated[str, 1] = ""
    result: Annotated[Result | None, 3] = None


class RpcStatus(Message):
    code: Annotated[int, 1] = 0
    message: Annotated[str, 2] = ""


class ReturnRequest(Message):
    result: Annotated[Result | None, 1] = None
    error: Annotated[RpcStatus | None, 2] = None


class HealthResponse(Message):
    """1 = SERVING."""

    status: Annotated[int, 1] = 0
