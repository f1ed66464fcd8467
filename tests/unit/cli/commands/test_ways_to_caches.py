"""An http(s):// cache is reached as registries are: through the proxies, and with the private authority."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.cache.remote.memory import MemoryObjects
from lamina.server.cacheapi import Access, CacheApi, Token
from lamina.server.cacheserver import CacheServer
from lamina.testing.breaking import BreakingWay
from lamina.testing.commandline import Lamina
from lamina.testing.registryauth import authority, certificate


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    access = Access({"all": Token(hashlib.sha256(b"t0ken").hexdigest(), write=("*",), delete=True)})
    server = CacheServer(CacheApi(MemoryObjects(), access), "127.0.0.1", 0, tls=tls)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"127.0.0.1:{server.address[1]}"
    finally:
        server.stop()
        thread.join()


def test_through_a_proxy_unless_it_is_exempt(lamina: Lamina, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The http cache went straight to its server, which a machine behind a proxy cannot reach."""
    monkeypatch.setenv("CACHE_TOKEN", "t0ken")
    place = "http://cache.invalid,insecure=true,token-env=CACHE_TOKEN,timeout=60"
    with serving() as host, BreakingWay(host) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        said = lamina("build", "--progress=plain", "--cache-to", place, ".")
        assert (said.code, said.err.count("warning")) == (0, 0), said
        assert proxy.seen
        assert all(sight.path.startswith("http://cache.invalid/lamina-cache/") for sight in proxy.seen)
        count = proxy.count
        monkeypatch.setenv("NO_PROXY", ".invalid")
        (app / "a").write_text("another\n")
        said = lamina("build", "--progress=plain", "--cache-from", place, ".")
        assert said.code == 0
        assert "left out: the name cache.invalid cannot be resolved" in said.err
        assert proxy.count == count


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_with_a_private_authority(lamina: Lamina, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knew the system's authorities only."""
    monkeypatch.setenv("CACHE_TOKEN", "t0ken")
    ca = authority(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate(tmp_path))
    with serving(tls) as host:
        place = f"https://{host},token-env=CACHE_TOKEN,timeout=60"
        refused = lamina("build", "--progress=plain", "--cache-to", place, ".")
        assert refused.code == 0
        assert "certificate" in refused.err
        said = lamina("build", "--progress=plain", "--registry-ca", str(ca), "--cache-to", place, ".")
        assert (said.code, said.err.count("warning")) == (0, 0), said
        assert lamina("cache", "ls", place).code == 76
        monkeypatch.setenv("LAMINA_REGISTRY_CA", str(ca))
        listed = lamina("cache", "ls", place)
        assert listed.code == 0
        assert "COPY a /a" in listed.out


@pytest.mark.parametrize("timeout", ["0", "x", "-1", "1e9", ""])
def test_time_limits_that_are_none(lamina: Lamina, app: Path, timeout: str) -> None:
    said = lamina("build", "--progress=plain", "--cache-from", f"dir:x,timeout={timeout}", ".")
    assert said.code == 2
    assert "no number of seconds" in said.err
