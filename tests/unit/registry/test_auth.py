from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from lamina.oci.digest import sha256
from lamina.oci.manifest import OCI_LAYER, Descriptor
from lamina.oci.reference import Reference
from lamina.registry.auth import Anonymous, Authenticator, Credentials, Given, scope
from lamina.registry.errors import RegistryProtocolError, RegistryUnauthorized
from lamina.registry.push import Publisher
from lamina.registry.session import Session
from lamina.registry.transport import Transport, TransportSettings
from lamina.testing.fakeregistry import FakeRegistry

DATA = b"layer" * 1000
BLOB = Descriptor(media_type=OCI_LAYER, digest=sha256(DATA), size=len(DATA))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(users={"me": "pass:word"}, auth="token", identity_tokens=["identity"]) as found:
        yield found


def publisher(registry: FakeRegistry, credentials: Credentials | None) -> Publisher:
    transport = Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=lambda _: None)
    return Publisher(Session(transport, Given(registry.host, credentials) if credentials else None))


def push(registry: FakeRegistry, with_: Publisher, name: str = "app", mount: tuple[str, ...] = ()) -> str:
    return with_.push_blob(Reference(registry.host, name, "1"), BLOB, lambda: (DATA,), mount_from=mount)


def scopes(registry: FakeRegistry) -> list[list[str]]:
    return [parse_qs(urlsplit(each.path).query).get("scope", []) for each in registry.asked if each.path.startswith("/token")]


def test_one_token_for_a_push(registry: FakeRegistry) -> None:
    assert push(registry, publisher(registry, Credentials("me", "pass:word"))) == "sent"
    assert scopes(registry) == [[scope("app", "pull,push")]]


def test_mounting_needs_two_scopes(registry: FakeRegistry) -> None:
    registry.put_blob("base", DATA)
    assert push(registry, publisher(registry, Credentials("me", "pass:word")), mount=("base",)) == "mounted"
    assert scopes(registry)[-1] == [scope("app", "pull,push"), scope("base")]


def test_an_expired_token_is_renewed(registry: FakeRegistry) -> None:
    with_ = publisher(registry, Credentials("me", "pass:word"))
    push(registry, with_)
    registry.wrongs.forget_tokens = 1
    assert push(registry, with_) == "there"
    assert len(scopes(registry)) == 2


def test_a_token_that_expires_within_an_upload(registry: FakeRegistry) -> None:
    with_ = publisher(registry, Credentials("me", "pass:word"))
    assert not with_.has_blob(Reference(registry.host, "app"), BLOB.digest)
    registry.wrongs.forget_tokens = 2
    assert with_.push_blob(Reference(registry.host, "app"), BLOB, lambda: (DATA,), known_absent=True) == "sent"


def test_identity_tokens(registry: FakeRegistry) -> None:
    assert push(registry, publisher(registry, Credentials("", "", "identity"))) == "sent"
    asked = [each for each in registry.asked if each.path.startswith("/token")]
    assert [each.method for each in asked] == ["POST"]
    assert "identity" not in asked[0].path


@pytest.mark.parametrize("credentials", [None, Credentials("me", "wrong-secret"), Credentials("", "", "wrong-secret")])
def test_refused(registry: FakeRegistry, credentials: Credentials | None) -> None:
    with pytest.raises(RegistryUnauthorized) as caught:
        push(registry, publisher(registry, credentials))
    assert "wrong-secret" not in f"{caught.value!r} {caught.value.hint}"
    assert f"lamina login {registry.host}" in str(caught.value.hint)
    assert not registry.blobs


def test_an_identity_token_follows_no_redirect(registry: FakeRegistry) -> None:
    with FakeRegistry() as other:
        registry.wrongs.answers = [("POST", 307, {"Location": f"http://{other.host}/token"})]
        with pytest.raises(Exception, match="instead of a token"):
            push(registry, publisher(registry, Credentials("", "", "identity")))
        assert other.asked == []


def test_basic(registry: FakeRegistry) -> None:
    registry.auth = "basic"
    assert push(registry, publisher(registry, Credentials("me", "pass:word"))) == "sent"
    with pytest.raises(RegistryUnauthorized, match="refuses"):
        push(registry, publisher(registry, Credentials("me", "wrong")))


@pytest.mark.parametrize("auth", ["basic", "token", ""])
def test_check_of_a_login(registry: FakeRegistry, auth: str) -> None:
    registry.auth = auth
    publisher(registry, Credentials("me", "pass:word")).session.check(registry.host)
    if auth:
        with pytest.raises(RegistryUnauthorized):
            publisher(registry, Credentials("me", "wrong")).session.check(registry.host)


def test_credentials_show_nothing() -> None:
    assert "secret" not in f"{Credentials('me', 'secret', 'secret')!r}"


def test_a_challenge_that_names_no_readable_address() -> None:
    """A ValueError of Python's own reached the user as a traceback."""
    asked = Authenticator(Transport(TransportSettings()), Anonymous())
    with pytest.raises(RegistryProtocolError, match="cannot be read"):
        asked.answer("registry.example", "app", (scope("app"),), ['Bearer realm="https://[::1",service="s"'], "")
