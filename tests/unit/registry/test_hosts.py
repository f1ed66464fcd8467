from __future__ import annotations

import pytest

from lamina.registry.hosts import Proxies, endpoint, is_loopback


def test_docker_hub_has_another_address() -> None:
    assert endpoint("docker.io") == "registry-1.docker.io"
    assert endpoint("quay.io") == "quay.io"


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1:80", "127.9.9.9", "[::1]:5000"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


FOREIGN = [
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0",
    "10.0.0.1",
    "128.0.0.1",
    "[::2]:1",
    "",
    "127.0.0.999",
    "127.0.0.²",
    "127.0.0." + "1" * 5000,
    "127.0.0.1:²",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("a.corp", True),
        ("corp", True),
        ("notcorp", False),
        ("10.1.2.3:5000", True),
        ("11.1.2.3", False),
        ("r.example:5000", True),
        ("r.example:5001", False),
        ("127.0.0.1:5000", True),
    ],
)
def test_no_proxy(host: str, direct: bool) -> None:
    proxies = Proxies(http="p:3128", https="http://p:3128", no_proxy=(".corp", "10.0.0.0/8", "r.example:5000"))
    assert (proxies.url_for("https", host) == "") is direct


def test_proxies_from_environment() -> None:
    found = Proxies.from_environment({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2", "no_proxy": "x, y"})
    assert found == Proxies("", "http://b:2", ("x", "y"))
    assert found.url_for("https", "h") == "http://b:2"
    assert found.url_for("http", "h") == ""


def test_everything_exempt() -> None:
    assert Proxies("p", "p", ("*",)).url_for("http", "h") == ""
