"""Spans in OTLP's two forms over HTTP: opentelemetry/proto/trace/v1/trace.proto as protobuf and as its JSON. Tests decode both with the schema's own
classes (opentelemetry-proto)."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from lamina.version import __version__

Value = str | bool | int | float
_INTERNAL, _ERROR = 1, 2
_SCOPE = "lamina"


class Span(msgspec.Struct, frozen=True):
    """Ids in hexadecimal, times in nanoseconds since the epoch. `error`: None where all is well."""

    trace: str
    id: str
    name: str
    start: int
    end: int
    parent: str = ""
    state: str = ""
    attributes: tuple[tuple[str, Value], ...] = ()
    error: str | None = None


def as_json(resource: Iterable[tuple[str, Value]], spans: Iterable[Span]) -> bytes:
    scope = {"scope": {"name": _SCOPE, "version": __version__}, "spans": [_json_span(span) for span in spans]}
    document = {"resourceSpans": [{"resource": {"attributes": _json_attributes(resource)}, "scopeSpans": [scope]}]}
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _json_span(span: Span) -> dict[str, object]:
    found: dict[str, object] = {
        "traceId": span.trace,
        "spanId": span.id,
        "name": _clean(span.name),
        "kind": _INTERNAL,
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _json_attributes(span.attributes),
    }
    if span.parent:
        found["parentSpanId"] = span.parent
    if span.state:
        found["traceState"] = _clean(span.state)
    if span.error is not None:
        found["status"] = {"code": _ERROR, "message": _clean(span.error)}
    return found


def _json_attributes(pairs: Iterable[tuple[str, Value]]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name, value in pairs:
        match value:
            case bool():
                shown: dict[str, object] = {"boolValue": value}
            case int():
                shown = {"intValue": str(value)}
            case float():
                shown = {"doubleValue": value}
            case _:
                shown = {"stringValue": _clean(value)}
        found.append({"key": _clean(name), "value": shown})
    return found


def _clean(text: str) -> str:
    """Bytes that were no UTF-8 as question marks."""
    return text.encode("utf-8", "replace").decode()


def as_protobuf(resource: Iterable[tuple[str, Value]], spans: Iterable[Span]) -> bytes:
    scope = _field(1, _field(1, _SCOPE) + _field(2, __version__)) + b"".join(_field(2, _span(span)) for span in spans)
    return _field(1, _field(1, _attributes(1, resource)) + _field(2, scope))


def _span(span: Span) -> bytes:
    parts = [_field(1, bytes.fromhex(span.trace)), _field(2, bytes.fromhex(span.id))]
    if span.state:
        parts.append(_field(3, span.state))
    if span.parent:
        parts.append(_field(4, bytes.fromhex(span.parent)))
    parts += [_field(5, span.name), _number(6, _INTERNAL), _fixed(7, span.start), _fixed(8, span.end), _attributes(9, span.attributes)]
    if span.error is not None:
        parts.append(_field(15, _field(2, span.error) + _number(3, _ERROR)))
    return b"".join(parts)


def _attributes(field: int, pairs: Iterable[tuple[str, Value]]) -> bytes:
    return b"".join(_field(field, _field(1, name) + _field(2, _value(value))) for name, value in pairs)


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return _number(2, int(value))
        case int():
            return _number(3, value)
        case float():
            import struct

            return _varint(4 << 3 | 1) + struct.pack("<d", value)
        case _:
            return _field(1, value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers as two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _fixed(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + value.to_bytes(8, "little")


def _field(field: int, value: bytes | str) -> bytes:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data
