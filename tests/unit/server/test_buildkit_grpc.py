"""Calls between our two ends of HTTP/2, and ends that break off."""

from __future__ import annotations

import contextlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.server.buildkit import grpc
from lamina.server.buildkit import messages as m
from lamina.server.buildkit.grpc import ClientCall, RpcError, ServerCall, call
from lamina.server.buildkit.http2 import Http2
from lamina.server.errors import ClientGone
from lamina.testing.buildkitclient import connected, ends


def _echo(made: ServerCall) -> None:
    while (found := made.receive(m.Bytes)) is not None:
        made.send(found)


def _double(made: ServerCall) -> None:
    made.send(m.Bytes(made.request(m.Bytes).data * 2))


def test_one_message_there_and_one_back() -> None:
    with connected({"/t/Double": _double}) as client:
        assert call(client, "/t/Double", m.Bytes(b"ab"), m.Bytes).data == b"abab"


def test_metadata_arrives_with_all_its_values() -> None:
    seen: dict[str, list[str]] = {}

    def note(made: ServerCall) -> None:
        seen.update(made.metadata)
        made.send(made.request(m.Bytes))

    with connected({"/t/Note": note}) as client:
        call(client, "/t/Note", m.Bytes(), m.Bytes, [("follow", "a"), ("follow", "b c")])
    assert seen["follow"] == ["a", "b c"]


def test_more_than_all_windows_goes_through_in_both_directions() -> None:
    data = bytes(range(256)) * 4096  # 1 MiB, 24 times
    with connected({"/t/Echo": _echo}) as client:
        made = ClientCall(client, "/t/Echo", [])

        def send() -> None:
            for _ in range(24):
                made.send(m.Bytes(data))
            made.end()

        sender = threading.Thread(target=send)
        sender.start()
        got = 0
        while (found := made.receive(m.Bytes)) is not None:
            assert found.data == data
            got += 1
        sender.join(90)
    assert got == 24


def test_many_calls_at_a_time() -> None:
    with connected({"/t/Double": _double}) as client:
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(call(client, "/t/Double", m.Bytes(b"%d." % n), m.Bytes).data))
            for n in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert sorted(answers) == sorted(b"%d.%d." % (n, n) for n in range(40))


def test_a_refusal_has_its_status_and_text() -> None:
    def refuse(made: ServerCall) -> None:
        raise RpcError(grpc.NOT_FOUND, "no such thing: ü 100%\nsecond line")

    with connected({"/t/Refuse": refuse}) as client, pytest.raises(RpcError) as caught:
        call(client, "/t/Refuse", m.Bytes(), m.Bytes)
    assert (caught.value.status, caught.value.message) == (grpc.NOT_FOUND, "no such thing: ü 100%\nsecond line")


def test_an_unknown_method_is_unimplemented() -> None:
    with connected({}) as client, pytest.raises(RpcError) as caught:
        call(client, "/t/Nothing", m.Bytes(), m.Bytes)
    assert caught.value.status == grpc.UNIMPLEMENTED


def test_a_message_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "_LIMIT", 1000)
    with connected({"/t/Echo": _echo}) as client, pytest.raises(RpcError, match="too large"):
        call(client, "/t/Echo", m.Bytes(bytes(1001)), m.Bytes)


def test_a_cancelled_call_is_told_to_the_method() -> None:
    begun, told = threading.Event(), threading.Event()

    def wait(made: ServerCall) -> None:
        made.on_gone(told.set)
        begun.set()
        while made.receive(m.Bytes) is not None:
            pass

    with connected({"/t/Wait": wait}) as client:
        made = ClientCall(client, "/t/Wait", [])
        made.send(m.Bytes())
        assert begun.wait(90)
        made.cancel()
        assert told.wait(90)


def test_a_connection_that_ends_ends_every_call() -> None:
    begun = threading.Event()

    def wait(made: ServerCall) -> None:
        begun.set()
        while made.receive(m.Bytes) is not None:
            pass

    with connected({"/t/Wait": wait}) as client:
        made = ClientCall(client, "/t/Wait", [])
        made.send(m.Bytes())
        assert begun.wait(90)
        threading.Thread(target=client.close).start()
        with pytest.raises(RpcError) as caught:
            made.receive(m.Bytes)
        assert caught.value.status == grpc.UNAVAILABLE
        with pytest.raises(RpcError):
            call(client, "/t/Wait", m.Bytes(), m.Bytes)


def _recorded() -> bytes:
    """What a client sends for one call."""
    with ends() as (here, there):
        client = Http2(here, None)
        made = ClientCall(client, "/t/Double", [])
        made.send(m.Bytes(b"abc"))
        made.end()
        client.close()
        return there.socket.recv(65536)


def test_a_client_that_is_cut_off_at_any_byte_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = _recorded()
    before = threading.active_count()
    for length in range(len(sent)):
        with ends() as (client, server):
            client.write(sent[:length])
            client.close()
            Http2(server, grpc.acceptor({"/t/Double": _double})).run()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.name.endswith("(_answer)"):
            thread.join(90)
    assert threading.active_count() <= before


@pytest.mark.parametrize("damage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100])
def test_what_is_no_http2_ends_the_connection(damage: bytes) -> None:
    with ends() as (client, server):
        client.write(damage)
        client.close()
        Http2(server, grpc.acceptor({})).run()


def test_who_gives_up_streams_without_end_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.server.buildkit import http2

    monkeypatch.setattr(http2, "_RESETS", 5)

    gone = threading.Event()
    with connected({"/t/Echo": _echo}) as client:
        client.on_close(gone.set)
        with contextlib.suppress(RpcError):  # it may have said all of them before the other side reads the first
            for _ in range(1000):
                ClientCall(client, "/t/Echo", []).cancel()
        assert gone.wait(90)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(0, 200))
def test_any_frames_end_the_connection_and_nothing_else(frames: list[bytes], cut: int) -> None:
    sent = _recorded()
    wild = b"".join(len(body).to_bytes(3, "big") + body[:1] + bytes([len(body) % 64]) + bytes(3) + b"\1" + body for body in frames)
    with ends() as (client, server):
        client.write(sent[:cut] + wild)
        client.close()
        Http2(server, grpc.acceptor({"/t/Double": _double})).run()


def test_a_client_that_reads_nothing_is_sent_away_when_it_asks_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.server.buildkit import http2

    monkeypatch.setattr(http2, "_ANSWERS", 100_000)
    monkeypatch.setattr(http2, "_LAST_WORDS", 0.1)
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    with ends() as (client, server):

        def serve() -> None:
            Http2(server, grpc.acceptor({})).run()
            server.close()  # as the connection is when its conversation is over

        serving = threading.Thread(target=serve)
        serving.start()
        client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        with contextlib.suppress(ClientGone):
            for _ in range(20_000):
                client.write(ping * 100)
                if not serving.is_alive():
                    break
        client.close()
        serving.join(90)
        assert not serving.is_alive()
