from __future__ import annotations

import pytest

from lamina.server.locality import is_local, is_loopback, is_rebound, names_this_machine


@pytest.mark.parametrize("header", ["localhost", "localhost:2375", "127.0.0.1:2375", "[::1]:2375", "[::1]", "", "LocalHost"])
def test_names_of_this_machine(header: str) -> None:
    assert names_this_machine(header)
    assert not is_rebound(header)


@pytest.mark.parametrize("header", ["evil.example", "evil.example:2375", "127.0.0.1.evil.example:2375", "Evil.Example."])
def test_a_name_that_somebody_points_here(header: str) -> None:
    """DNS rebinding: a page asks http://evil.example:2375/containers/json, and the name leads to 127.0.0.1."""
    assert is_rebound(header)
    assert not names_this_machine(header)


@pytest.mark.parametrize("header", ["docker", "api.moby.localhost", "x"])
def test_words_of_clients_on_a_socket(header: str) -> None:
    assert not is_rebound(header)


def test_listeners() -> None:
    assert is_loopback("tcp://127.0.0.1:2375")
    assert not is_loopback("tcp://0.0.0.0:2375")
    assert not is_loopback("unix:///run/x.sock")
    assert is_local("unix:///run/x.sock,tcp://[::1]:1")
    assert not is_local("fd://")
