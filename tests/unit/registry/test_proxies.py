"""Requests to registries through proxies: plain ones, and TLS by CONNECT."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.oci.platform import Platform
from lamina.oci.reference import Reference
from lamina.registry.auth import Credentials, Given
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryProtocolError, RegistryUnreachable
from lamina.registry.hosts import Proxies
from lamina.registry.transport import Transport, TransportSettings
from lamina.testing.breaking import BreakingWay
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import push, simple_image, tar_of
from lamina.testing.registry import docker_registry
from lamina.testing.registryauth import PASSWORD, USER, authority, certificate, htpasswd

AMD = Platform("linux", "amd64")
SIMPLE = simple_image([tar_of({"f": b"x"})])
ELSEWHERE = "10.255.255.1"  # loopback goes through no proxy


class Tunnel:
    """A proxy that knows CONNECT, and leads everywhere to one server. `heads`: what it was asked, as text."""

    def __init__(self, target: str) -> None:
        self.heads: list[str] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        self.heads.append(head.decode())
        name, _, port = self._target.rpartition(":")
        there = socket.create_connection((name, int(port)))
        connection.sendall(b"HTTP/1.1 200 yes\r\n\r\n")
        back = threading.Thread(target=_pump, args=(there, connection), daemon=True)
        back.start()
        _pump(connection, there)
        back.join()
        there.close()
        connection.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def tunnel(target: str) -> Iterator[Tunnel]:
    made = Tunnel(target)
    threading.Thread(target=made.run, daemon=True).start()
    try:
        yield made
    finally:
        made.close()


def client(settings: TransportSettings, host: str) -> RegistryClient:
    return RegistryClient(Transport(settings, sleep=lambda _: None), Given(host, Credentials(USER, PASSWORD)))


def test_plain_http() -> None:
    with FakeRegistry() as registry, BreakingWay(registry.host) as proxy:
        push(registry.host, "app", "1", SIMPLE)
        settings = TransportSettings(
            proxies=Proxies(http=f"http://me:pr0xy@{proxy.host}"), plain_http=frozenset({"registry.invalid"}), connect_timeout=60
        )
        reference = Reference.parse("registry.invalid/app:1")
        found = client(settings, "registry.invalid").resolve(reference, AMD)
        assert found.raw == SIMPLE.manifest
        assert all(sight.path.startswith("http://registry.invalid/v2/") for sight in proxy.seen)
        assert proxy.seen[0].headers["proxy-authorization"] == "Basic " + base64.b64encode(b"me:pr0xy").decode()
        exempt = TransportSettings(
            proxies=Proxies(http=proxy.url, no_proxy=(".invalid",)), plain_http=frozenset({"registry.invalid"}), attempts=1
        )
        count = proxy.count
        with pytest.raises(RegistryUnreachable):
            client(exempt, "registry.invalid").resolve(reference, AMD)
        assert proxy.count == count


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_tls_through_a_tunnel(tmp_path: Path) -> None:
    """The proxy sees where to, and its own password; the registry's login and everything else go through it sealed. Whoever answers at the
    tunnel's end has to show the registry's certificate."""
    ca = authority(tmp_path)
    tls = certificate(tmp_path, ELSEWHERE)
    with docker_registry(tmp_path, auth=htpasswd(tmp_path), tls=tls) as registry, tunnel(registry) as proxy:
        host = f"{ELSEWHERE}:5000"
        proxies = Proxies(https=f"http://me:pr0xy@{proxy.host}")
        client(TransportSettings(proxies=proxies, ca_file=ca, connect_timeout=60), host).session.check(host)
        assert proxy.heads[0].startswith(f"CONNECT {host} HTTP/1.")
        assert base64.b64encode(b"me:pr0xy").decode() in proxy.heads[0]
        assert not any(base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() in head for head in proxy.heads)
        with pytest.raises(RegistryProtocolError, match=r"TLS connection to .* failed"):
            client(TransportSettings(proxies=proxies, connect_timeout=60), host).session.check(host)
        with pytest.raises(RegistryProtocolError, match=r"TLS connection to .* failed"):
            client(TransportSettings(proxies=proxies, ca_file=ca, connect_timeout=60), "10.255.255.2:5000").session.check(
                "10.255.255.2:5000"
            )


def test_a_proxy_that_is_not_there() -> None:
    settings = TransportSettings(proxies=Proxies(https="http://me:pr0xy@127.0.0.1:1"), attempts=1, connect_timeout=60)
    with pytest.raises(RegistryUnreachable, match="proxy") as caught:
        client(settings, "registry.invalid").session.check("registry.invalid")
    assert "pr0xy" not in caught.value.message
