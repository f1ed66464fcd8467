"""What OTEL_* and TRACEPARENT ask for. The names and their meaning are the OpenTelemetry specification's (SDK environment variables, OTLP exporter,
W3C trace context); traces are made only where an endpoint is named, or OTEL_TRACES_EXPORTER=otlp takes the usual one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from lamina.diagnostics.errors import LaminaError

DEFAULT_SECONDS = 3.0  # the specification has 10: a build should not wait so long for a collector that is away
MOST_SECONDS = 10.0
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_STATE = 512  # characters of a tracestate that others must pass on
_PROTOCOLS = ("http/protobuf", "http/json")


class BadTracing(LaminaError):
    """A variable that cannot be followed. The build goes on without a trace."""

    code = "engine/tracing"


class Asked(msgspec.Struct, frozen=True):
    """`seconds` bounds all of the sending. `parent`: span of who began the build, `trace` its trace; "" without one."""

    endpoint: str
    protocol: Literal["http/protobuf", "http/json"]
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = DEFAULT_SECONDS
    resource: tuple[tuple[str, str], ...] = ()
    gzip: bool = False
    certificate: str | None = None
    trace: str = ""
    parent: str = ""
    state: str = ""

    def __repr__(self) -> str:
        return f"Asked({self.endpoint!r})"  # headers are credentials


def asked(environment: Mapping[str, str]) -> Asked | None:
    """None: no trace is wanted. BadTracing names the variable, never its value where that may be a secret."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return None
    if exporter not in ("", "otlp"):
        raise BadTracing(f"OTEL_TRACES_EXPORTER={exporter}: only otlp and none are known")
    if not endpoint:
        if not base and not exporter:
            return None
        endpoint = (base or "http://localhost:4318").rstrip("/") + "/v1/traces"
    _check(endpoint)
    protocol = _either(environment, "PROTOCOL").lower() or "http/protobuf"
    if protocol not in _PROTOCOLS:
        raise BadTracing(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only http/protobuf and http/json are sent")
    compression = _either(environment, "COMPRESSION").lower()
    if compression not in ("", "none", "gzip"):
        raise BadTracing(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression}: only gzip and none are known")
    made = Asked(
        endpoint,
        "http/json" if protocol == "http/json" else "http/protobuf",
        _headers(environment),
        _seconds(_either(environment, "TIMEOUT")),
        _resource(environment),
        compression == "gzip",
        _either(environment, "CERTIFICATE") or None,
    )
    return below(made, environment.get("TRACEPARENT", ""), environment.get("TRACESTATE", ""))


def below(wanted: Asked, parent: str, state: str = "") -> Asked | None:
    """The same below the span that a traceparent names (W3C trace context); a text that is none changes nothing. None: who began it keeps no trace."""
    found = _PARENT.fullmatch(parent.strip().lower()) if len(parent) < 200 else None
    if found is None:
        return wanted
    if not int(found[3], 16) & 1:
        return None
    state = state.strip()
    kept = state if len(state) <= _STATE and state.isascii() and state.isprintable() else ""
    return msgspec.structs.replace(wanted, trace=found[1], parent=found[2], state=kept)


def _either(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or "").strip()


def _check(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        credentials = parts.username is not None or parts.password is not None
    except ValueError:
        good, credentials = False, False
    if credentials:
        raise BadTracing("OTEL_EXPORTER_OTLP_ENDPOINT has credentials in it: they belong into OTEL_EXPORTER_OTLP_HEADERS")
    if not good or not endpoint.isascii() or not endpoint.isprintable() or " " in endpoint:
        raise BadTracing("OTEL_EXPORTER_OTLP_ENDPOINT is no http:// or https:// address")


def _pairs(text: str) -> list[tuple[str, str]] | None:
    """`a=1,b=2`, percent-encoded. None for anything else."""
    found = []
    for item in text.split(","):
        if not item.strip():
            continue
        name, mark, value = item.partition("=")
        if not mark or not name.strip():
            return None
        found.append((unquote(name.strip()), unquote(value.strip())))
    return found


def _headers(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    pairs = _pairs(_either(environment, "HEADERS"))
    if pairs is None or not all(
        re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) and value.isprintable() and value.isascii() for name, value in pairs
    ):
        raise BadTracing("OTEL_EXPORTER_OTLP_HEADERS is not of the form name=value,name=value")
    return tuple(pairs)


def _resource(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """A text of another form is left out whole, as the specification says."""
    found = {"service.name": "lamina", **dict(_pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", "")) or ())}
    if name := environment.get("OTEL_SERVICE_NAME", "").strip():
        found["service.name"] = name
    return tuple(found.items())


def _seconds(text: str) -> float:
    """Milliseconds, as the specification has them."""
    if not text:
        return DEFAULT_SECONDS
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise BadTracing("OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds")
    return min(int(text) / 1000, MOST_SECONDS)
