from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from lamina.registry.errors import RegistryProtocolError, RegistryUnreachable, shown
from lamina.registry.transport import Transport, TransportSettings
from lamina.testing.registry import MemoryRegistry, free_port


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as found:
        yield found


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def transport(waits: list[float]) -> Iterator[Transport]:
    made = Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=waits.append)
    yield made
    made.close()


def get(transport: Transport, url: str, **headers: str) -> int:
    with transport.request("GET", url, headers) as answer:
        return answer.status


def test_transient_answers_are_retried(registry: MemoryRegistry, transport: Transport, waits: list[float]) -> None:
    registry.faults.answers = [(503, {}), (429, {"Retry-After": "7"})]
    assert get(transport, f"http://{registry.host}/v2/") == 200
    assert waits[1:] == [7.0]


def test_retries_end(registry: MemoryRegistry, transport: Transport, waits: list[float]) -> None:
    registry.faults.answers = [(503, {})] * 9
    with pytest.raises(RegistryUnreachable, match="503") as caught:
        get(transport, f"http://{registry.host}/v2/")
    assert caught.value.transient
    assert caught.value.exit_code == 69
    assert len(waits) == 3


def test_a_long_wait_is_reported_at_once(registry: MemoryRegistry, transport: Transport, waits: list[float]) -> None:
    registry.faults.answers = [(429, {"Retry-After": "86400"})]
    with pytest.raises(RegistryUnreachable, match="86400 s"):
        get(transport, f"http://{registry.host}/v2/")
    assert waits == []


def test_a_final_answer_is_not_retried(registry: MemoryRegistry, transport: Transport, waits: list[float]) -> None:
    registry.faults.answers = [(403, {})]
    assert get(transport, f"http://{registry.host}/v2/") == 403
    assert waits == []


def test_nobody_listens(transport: Transport, waits: list[float]) -> None:
    with pytest.raises(RegistryUnreachable, match="no connection to 127") as caught:
        get(transport, f"http://127.0.0.1:{free_port()}/v2/")
    assert "object at 0x" not in caught.value.message
    assert len(waits) == 3


def test_a_server_that_ends_in_the_middle_of_the_handshake_is_tried_again(transport: Transport, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(transport.settings.attempts):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)  # its hello: closing with unread bytes would be a reset

        serving = threading.Thread(target=hang_up)
        serving.start()
        with pytest.raises(RegistryUnreachable, match="broke"):
            get(transport, f"https://127.0.0.1:{listener.getsockname()[1]}/v2/")
        serving.join()
    assert len(waits) == transport.settings.attempts - 1


def test_plain_http_needs_permission(transport: Transport) -> None:
    with pytest.raises(RegistryProtocolError, match="plain http"):
        get(transport, "http://registry.example/v2/")
    assert Transport(TransportSettings(plain_http=frozenset({"registry.example"}))).plain_allowed("registry.example")


def test_redirect_loop(registry: MemoryRegistry, transport: Transport) -> None:
    registry.faults.redirect_loop = True
    with pytest.raises(RegistryProtocolError, match="redirects more than 5 times"):
        get(transport, f"http://{registry.host}/v2/x/blobs/y")


def test_credentials_stay_with_their_host(registry: MemoryRegistry, transport: Transport) -> None:
    with MemoryRegistry() as other:
        registry.faults.answers = [(307, {"Location": f"http://{other.host}/v2/"}), (307, {"Location": "/v2/"})]
        get(transport, f"http://{registry.host}/v2/a", Authorization="Bearer secret")
        assert "authorization" not in other.seen[0].headers
        get(transport, f"http://{registry.host}/v2/b", Authorization="Bearer secret")
        assert registry.seen[-1].headers["authorization"] == "Bearer secret"


def test_redirect_to_plain_http_elsewhere(registry: MemoryRegistry, transport: Transport) -> None:
    registry.faults.answers = [(302, {"Location": "http://169.254.169.254/latest/meta-data"})]
    with pytest.raises(RegistryProtocolError, match="plain http"):
        get(transport, f"http://{registry.host}/v2/")


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.²/", "http://localhost:port/"])
def test_redirect_to_what_is_no_address(registry: MemoryRegistry, transport: Transport, location: str) -> None:
    """Python's own ValueError ended the command with a traceback."""
    registry.faults.answers = [(307, {"Location": location})]
    with pytest.raises(RegistryProtocolError):
        get(transport, f"http://{registry.host}/v2/")


def test_redirect_to_a_file(registry: MemoryRegistry, transport: Transport) -> None:
    registry.faults.answers = [(302, {"Location": "file:///etc/passwd"})]
    with pytest.raises(RegistryProtocolError, match="not an http"):
        get(transport, f"http://{registry.host}/v2/")


def test_body_limit(registry: MemoryRegistry, transport: Transport) -> None:
    digest = registry.put_blob(bytes(5000))
    registry.faults.endless.add(digest)
    url = f"http://{registry.host}/v2/x/blobs/{digest}"
    with transport.request("GET", url) as answer, pytest.raises(RegistryProtocolError, match="more than"):
        answer.read(10_000)


def test_shown_hides_secrets() -> None:
    assert shown("https://user:pw@host:5000/a/b?sig=secret#f") == "https://host:5000/a/b"
    assert shown("https://[::1]:x/") == "an address that cannot be read"
