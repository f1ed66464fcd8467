from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from lamina.server.listening import CannotListen, Tls, open_sockets


def opened(*hosts: str, insecure: bool = False, tls: Tls | None = None, environment: dict[str, str] | None = None) -> list[socket.socket]:
    return open_sockets(hosts, tls=tls, insecure_tcp=insecure, environment=environment or {}, pid=os.getpid())[0]


def test_a_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    (listener,) = opened(f"unix://{tmp_path}/x/s.sock")
    assert stat.S_IMODE(os.stat(tmp_path / "x" / "s.sock").st_mode) == 0o600
    listener.close()


def test_a_socket_that_nobody_listens_at_is_replaced_another_is_not(tmp_path: Path) -> None:
    place = f"unix://{tmp_path}/s.sock"
    (first,) = opened(place)
    with pytest.raises(CannotListen, match="another engine"):
        opened(place)
    first.close()
    (second,) = opened(place)
    second.close()


def test_a_file_in_the_way_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("mine")
    with pytest.raises(CannotListen, match="something that is no socket is there"):
        opened(f"unix://{tmp_path}/s.sock")
    assert (tmp_path / "s.sock").read_text() == "mine"


@pytest.mark.parametrize("host", ["tcp://0.0.0.0:0", "tcp://127.0.0.1:0", "tcp://127.0.0.1", "ftp://x", "fd://"])
def test_nobody_gets_in_by_accident(host: str) -> None:
    with pytest.raises(CannotListen):
        opened(host)


@pytest.mark.parametrize("port", ["", "x", "\N{SUPERSCRIPT TWO}", "65536", "9" * 5000])
def test_a_port_that_is_none(port: str) -> None:
    """Python's ValueError and OverflowError ended the server with a traceback."""
    with pytest.raises(CannotListen, match="an address and a port are needed"):
        opened(f"tcp://127.0.0.1:{port}", insecure=True)


def test_insecure_tcp_is_for_loopback_alone() -> None:
    (listener,) = opened("tcp://127.0.0.1:0", insecure=True)
    listener.close()
    with pytest.raises(CannotListen):
        opened("tcp://0.0.0.0:0", insecure=True)


def test_tls_without_client_certificates_is_not_enough() -> None:
    with pytest.raises(CannotListen):
        opened("tcp://0.0.0.0:0", tls=Tls(Path("cert"), Path("key")))


def test_sockets_for_another_process_are_not_taken() -> None:
    with pytest.raises(CannotListen):
        opened("fd://", environment={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
