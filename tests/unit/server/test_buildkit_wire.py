"""The protobuf codec against the package `protobuf`, and what strangers send."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.server.buildkit import messages as m
from lamina.server.buildkit import wire
from lamina.server.buildkit.wire import WireError, decode, encode

_TYPES = {"int64": 3, "bool": 8, "string": 9, "bytes": 12, "message": 11}


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """Classes of the package for Packet, Stat and StatusResponse's Vertex."""
    pb2 = pytest.importorskip("google.protobuf.descriptor_pb2", reason="the package protobuf is not installed")
    descriptor_pool = pytest.importorskip("google.protobuf.descriptor_pool")
    message_factory = pytest.importorskip("google.protobuf.message_factory")

    file = pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple[int, str, str, str]) -> Any:
        found = file.message_type.add(name=name)
        for number, field, kind, of in fields:
            entry = found.field.add(name=field, number=number, label=3 if of == "list" else 1, type=_TYPES[kind])
            if kind == "message":
                entry.type_name = f".t.{of}" if of != "map" else f".t.{name}.XattrsEntry"
                entry.label = 3 if of == "map" else 1
        return found

    stat = message("Stat", (1, "path", "bytes", ""), (2, "mode", "int64", ""), (5, "size", "int64", ""), (10, "xattrs", "message", "map"))
    pair = stat.nested_type.add(name="XattrsEntry")
    pair.options.map_entry = True
    pair.field.add(name="key", number=1, label=1, type=9)
    pair.field.add(name="value", number=2, label=1, type=12)
    message("Packet", (1, "type", "int64", ""), (2, "stat", "message", "Stat"), (3, "id", "int64", ""), (4, "data", "bytes", ""))
    message("Vertex", (1, "digest", "string", ""), (2, "inputs", "string", "list"), (3, "name", "string", ""), (4, "cached", "bool", ""))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}")) for name in ("Packet", "Vertex")}


_INTS = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.integers(0, 4), _INTS, st.binary(), st.binary(), _INTS, st.dictionaries(st.text(), st.binary(), max_size=4), st.booleans())
def test_packets_mean_the_same_to_the_package(
    reference: dict[str, Any], kind: int, number: int, data: bytes, path: bytes, size: int, xattrs: dict[str, bytes], has_stat: bool
) -> None:
    ours = m.Packet(kind, m.Stat(path=path, size=size, xattrs=xattrs) if has_stat else None, number, data)
    theirs = reference["Packet"](type=kind, id=number, data=data)
    if has_stat:
        theirs.stat.path, theirs.stat.size = path, size
        for key, value in xattrs.items():
            theirs.stat.xattrs[key] = value
        theirs.stat.SetInParent()
    assert decode(m.Packet, theirs.SerializeToString()) == ours
    again = reference["Packet"]()
    again.ParseFromString(encode(ours))
    assert again == theirs


@given(st.text(), st.lists(st.text()), st.booleans())
def test_texts_lists_and_flags_mean_the_same_to_the_package(reference: dict[str, Any], name: str, inputs: list[str], cached: bool) -> None:
    ours = m.Vertex(digest="d", inputs=inputs, name=name, cached=cached)
    theirs = reference["Vertex"](digest="d", inputs=inputs, name=name, cached=cached)
    assert decode(m.Vertex, theirs.SerializeToString()) == ours
    assert reference["Vertex"].FromString(encode(ours)) == theirs


@given(st.binary())
def test_any_bytes_are_a_message_or_one_error(data: bytes) -> None:
    for kind in (m.Packet, m.SolveRequest, m.StatusResponse, m.GatewaySolveRequest):
        with contextlib.suppress(WireError):
            decode(kind, data)


def test_unknown_fields_are_passed_over() -> None:
    assert decode(m.Bytes, b"\x78\x05\x0a\x01x\xb9\x06" + bytes(8) + b"\x7d" + bytes(4)) == m.Bytes(b"x")


@pytest.mark.parametrize(
    "data", [b"\x0a\x05ab", b"\x0a", b"\x80", b"\x0b", b"\x00\x01", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_a_damaged_message_is_one_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(m.Bytes, data)


def test_a_field_of_another_type_is_an_error() -> None:
    with pytest.raises(WireError, match="wrong type"):
        decode(m.Bytes, b"\x08\x01")


def test_text_that_is_none_is_an_error() -> None:
    with pytest.raises(WireError, match="UTF-8"):
        decode(m.StatusRequest, b"\x0a\x01\xff")


def test_a_message_of_very_many_empty_items_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST", 1000)
    with pytest.raises(WireError, match="items"):
        decode(m.StatusResponse, b"\x0a\x00" * 1001)
