"""A client's ssh agent as a socket here."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lamina.server.buildkit import messages as m
from lamina.server.buildkit.agents import forwarded
from lamina.server.buildkit.grpc import NOT_FOUND, RpcError, ServerCall
from lamina.server.buildkit.sessions import FORWARD_AGENT, Session
from lamina.testing.buildkitclient import connected

_CHECK = "/moby.sshforward.v1.SSH/CheckAgent"


def _check(call: ServerCall) -> None:
    if call.request(m.CheckAgentRequest).id not in ("default", "git"):
        raise RpcError(NOT_FOUND, "unset")
    call.send(m.Nothing())


def _agent(call: ServerCall) -> None:
    """Answers everything with its own name before it."""
    while (found := call.receive(m.Bytes)) is not None:
        call.send(m.Bytes(call.value("buildkit.ssh.id").encode() + b":" + found.data))


@contextmanager
def session() -> Iterator[Session]:
    methods = {_CHECK: _check, FORWARD_AGENT: _agent}
    with connected(methods) as connection:
        yield Session("s", "", methods, connection)


def _ask(path: os.PathLike[str], text: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(90)
        one.connect(os.fspath(path))
        one.sendall(text)
        return one.recv(100)


def test_each_conversation_goes_to_its_agent() -> None:
    with session() as found, forwarded(found, ["default", "git", "absent"]) as agents:
        assert sorted(agents) == ["default", "git"]
        assert _ask(agents["default"], b"one") == b"default:one"
        assert _ask(agents["git"], b"two") == b"git:two"
        assert _ask(agents["git"], b"three") == b"git:three"
        assert os.stat(agents["git"]).st_mode & 0o777 == 0o600


def test_nothing_is_left_of_conversations_that_go_on() -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with session() as found:
        with forwarded(found, ["default"]) as agents:
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(90)
            one.connect(str(agents["default"]))
            one.sendall(b"x")
            assert one.recv(100) == b"default:x"
            path = agents["default"]
        assert one.recv(100) == b""
        one.close()
        assert not path.exists()
    for thread in threading.enumerate():
        if thread.name.endswith(("(_talk)", "(_answers)", "(_accept)", "(_answer)", "(_write)")):
            thread.join(90)
    assert threading.active_count() <= before[0]
    assert len(os.listdir("/proc/self/fd")) <= before[1]


def test_a_client_without_agents_gives_none() -> None:
    with connected({}) as connection, forwarded(Session("s", "", [], connection), ["default"]) as agents:
        assert agents == {}


def test_a_client_that_leaves_is_an_end_for_who_asks() -> None:
    with connected({_CHECK: _check, FORWARD_AGENT: _agent}) as connection:
        found = Session("s", "", [_CHECK, FORWARD_AGENT], connection)
        with forwarded(found, ["default"]) as agents:
            connection.close()
            with pytest.raises((AssertionError, OSError)):
                assert _ask(agents["default"], b"x")
