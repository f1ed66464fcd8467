from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator

import pytest

from lamina.oci.digest import Digest, sha256
from lamina.oci.manifest import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor
from lamina.oci.reference import Reference
from lamina.registry.auth import Credentials, Given
from lamina.registry.errors import (
    RegistryNotFound,
    RegistryProtocolError,
    RegistryUnauthorized,
    RegistryUnreachable,
    RegistryUnsupported,
)
from lamina.registry.push import Publisher
from lamina.registry.referrers import fallback_tag, referrers, tags
from lamina.registry.session import Session
from lamina.registry.transport import Transport, TransportSettings
from lamina.testing.fakeregistry import FakeRegistry

BIG = random.Random(1).randbytes(5 << 20)
SMALL = b"small" * 100


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


@pytest.fixture
def waits() -> list[float]:
    return []


def session(waits: list[float], registry: FakeRegistry | None = None, user: str = "", password: str = "") -> Session:
    transport = Transport(TransportSettings(connect_timeout=60, read_timeout=60), sleep=waits.append)
    return Session(transport, Given(registry.host, Credentials(user, password)) if registry and user else None)


@pytest.fixture
def publisher(waits: list[float]) -> Publisher:
    return Publisher(session(waits))


def at(registry: FakeRegistry, name: str = "team/app:1") -> Reference:
    return Reference.parse(f"{registry.host}/{name}")


def blob(data: bytes) -> Descriptor:
    return Descriptor(media_type=OCI_LAYER, digest=sha256(data), size=len(data))


def pieces(data: bytes, size: int = 300_000) -> Iterable[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def put(publisher: Publisher, registry: FakeRegistry, data: bytes, **more: object) -> str:
    return publisher.push_blob(at(registry), blob(data), lambda: pieces(data), **more)  # type: ignore[arg-type]  # keywords of push_blob


@pytest.mark.parametrize("data", [b"", SMALL, BIG], ids=["empty", "small", "big"])
def test_a_blob_goes_once(registry: FakeRegistry, publisher: Publisher, data: bytes) -> None:
    assert put(publisher, registry, data) == "sent"
    assert registry.blobs["team/app", sha256(data)] == data
    before = len(registry.asked)
    assert put(publisher, registry, data) == "there"
    assert [each.method for each in registry.asked[before:]] == ["HEAD"]


def test_in_chunks(registry: FakeRegistry, waits: list[float]) -> None:
    assert put(Publisher(session(waits), chunk=2 << 20), registry, BIG) == "sent"
    ranges = [each.headers["content-range"] for each in registry.asked if each.method == "PATCH"]
    assert ranges == ["0-2097151", "2097152-4194303", "4194304-5242879"]
    assert registry.blobs["team/app", sha256(BIG)] == BIG


def test_mounted_from_another_repository(registry: FakeRegistry, publisher: Publisher) -> None:
    registry.put_blob("base", BIG)
    assert put(publisher, registry, BIG, mount_from=("team/app", "base")) == "mounted"
    assert registry.count("PATCH") == registry.count("PUT") == 0


def test_a_refused_mount_is_an_upload(registry: FakeRegistry, publisher: Publisher) -> None:
    registry.put_blob("base", BIG)
    registry.wrongs.refuse_mounts = True
    assert put(publisher, registry, BIG, mount_from=("base",)) == "sent"
    assert registry.count("POST") == 1, "the upload that the registry began instead is used"


def test_cut_uploads_are_continued(registry: FakeRegistry, publisher: Publisher, waits: list[float]) -> None:
    registry.wrongs.cut_uploads = [1_000_000, 2_000_000, 1]
    assert put(publisher, registry, BIG) == "sent"
    assert registry.blobs["team/app", sha256(BIG)] == BIG
    starts = [int(each.headers["content-range"].split("-")[0]) for each in registry.asked if each.method == "PATCH"]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[1] >= 1_000_000
    assert registry.count("POST") == 1


def test_a_forgotten_upload_begins_again(registry: FakeRegistry, publisher: Publisher) -> None:
    registry.wrongs.cut_uploads = [1_000_000]
    registry.wrongs.lose_uploads = True
    assert put(publisher, registry, BIG) == "sent"
    assert registry.count("POST") == 2
    assert registry.blobs["team/app", sha256(BIG)] == BIG


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
def test_a_lost_answer_to_the_last_request(registry: FakeRegistry, publisher: Publisher, data: bytes) -> None:
    registry.wrongs.cut_after = ["PUT"]
    assert put(publisher, registry, data) == "sent"
    assert registry.count("POST") == 1


def test_uploads_that_always_break_end(registry: FakeRegistry, publisher: Publisher, waits: list[float]) -> None:
    registry.wrongs.cut_uploads = [0] * 1000
    with pytest.raises(RegistryUnreachable):
        put(publisher, registry, BIG)
    assert len(registry.asked) < 60
    assert not registry.blobs


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "HEAD"])
@pytest.mark.parametrize("status", [429, 503])
def test_come_back_later(registry: FakeRegistry, publisher: Publisher, waits: list[float], method: str, status: int) -> None:
    registry.wrongs.answers = [(method, status, {"Retry-After": "3"})]
    assert put(publisher, registry, BIG) == "sent"
    assert 3.0 in waits
    assert registry.blobs["team/app", sha256(BIG)] == BIG


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "HEAD"])
@pytest.mark.parametrize(
    ("status", "error"), [(403, RegistryUnauthorized), (404, Exception), (500, RegistryUnreachable), (413, RegistryProtocolError)]
)
def test_refusals_are_one_clear_error(
    registry: FakeRegistry, publisher: Publisher, method: str, status: int, error: type[Exception]
) -> None:
    registry.wrongs.answers = [(method, status, {})] * 50
    if (method, status) == ("HEAD", 404):
        assert put(publisher, registry, BIG) == "sent"  # that is what 404 means there
        return
    with pytest.raises(error):
        put(publisher, registry, BIG)
    assert not registry.blobs


def test_other_bytes_are_not_sent_to_the_end(registry: FakeRegistry, publisher: Publisher) -> None:
    wrong = bytearray(BIG)
    wrong[-1] ^= 1
    for data in (bytes(wrong), BIG + b"x", BIG[:-1]):
        with pytest.raises(RegistryProtocolError, match="not sha256"):
            publisher.push_blob(at(registry), blob(BIG), lambda data=data: pieces(data))  # type: ignore[misc]  # mypy does not infer defaults of lambdas
    assert not registry.blobs


def test_the_registry_s_own_words(registry: FakeRegistry, publisher: Publisher) -> None:
    manifest = {"schemaVersion": 2, "config": {"mediaType": "x", "digest": sha256(b"no"), "size": 2}, "layers": []}
    with pytest.raises(RegistryProtocolError, match=r"400.*blob unknown to registry"):
        publisher.put_manifest(at(registry), json.dumps(manifest).encode(), OCI_MANIFEST)


def test_no_credentials_for_an_upload_elsewhere(waits: list[float]) -> None:
    with FakeRegistry(users={"me": "secret"}, auth="basic") as registry, FakeRegistry() as other:
        registry.wrongs.upload_host = f"http://{other.host}"
        with pytest.raises(RegistryUnreachable):  # the other one knows nothing of the upload
            put(Publisher(session(waits, registry, "me", "secret")), registry, BIG)
        assert other.asked
        assert all("authorization" not in each.headers for each in other.asked)


def test_a_challenge_from_where_a_redirect_led_is_not_answered(waits: list[float]) -> None:
    with FakeRegistry(users={"me": "secret"}, auth="basic") as registry, FakeRegistry(users={"x": "y"}, auth="token") as other:
        there = f"http://{other.host}/v2/team/app/blobs/{sha256(SMALL)}"
        registry.wrongs.answers = [("HEAD", 307, {"Location": there})]
        with pytest.raises(RegistryUnauthorized):
            put(Publisher(session(waits, registry, "me", "secret")), registry, SMALL)
        assert all("authorization" not in each.headers for each in other.asked)
        assert not any("/token" in each.path for each in other.asked)


def image(publisher: Publisher, registry: FakeRegistry, **more: object) -> tuple[bytes, Digest]:
    config = b"{}"
    publisher.push_blob(at(registry), blob(config), lambda: (config,))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(config), "size": 2},
        "layers": [],
        **more,
    }
    raw = json.dumps(document).encode()
    return raw, sha256(raw)


def test_manifests_keep_their_bytes(registry: FakeRegistry, publisher: Publisher) -> None:
    raw, digest = image(publisher, registry, annotations={"b": "1", "a": "2"})
    assert publisher.put_manifest(at(registry), raw, OCI_MANIFEST) == digest
    assert registry.manifests["team/app", digest] == (OCI_MANIFEST, raw)
    assert publisher.manifest_digest(at(registry), OCI_MANIFEST) == digest
    assert publisher.manifest_digest(at(registry, "team/app:none"), OCI_MANIFEST) is None


def test_tags_come_in_pages(registry: FakeRegistry, publisher: Publisher) -> None:
    raw, _ = image(publisher, registry)
    for number in range(7):
        publisher.put_manifest(at(registry, f"team/app:v{number}"), raw, OCI_MANIFEST)
    assert tags(publisher.session, at(registry), page=3) == tuple(f"v{n}" for n in range(7))
    assert registry.count("GET", "tags/list") == 3
    registry.wrongs.tags_loop = True
    with pytest.raises(RegistryProtocolError, match="no end"):
        tags(publisher.session, at(registry), page=3)


@pytest.mark.parametrize("api", [True, False], ids=["api", "fallback tag"])
def test_referrers(registry: FakeRegistry, publisher: Publisher, api: bool) -> None:
    registry.wrongs.no_referrers = not api
    raw, subject = image(publisher, registry)
    publisher.put_manifest(at(registry), raw, OCI_MANIFEST)
    assert referrers(publisher.session, at(registry), subject) == ()
    named = {"mediaType": OCI_MANIFEST, "digest": subject, "size": len(raw)}
    for kind in ("a/sbom", "a/signature"):
        more, digest = image(publisher, registry, subject=named, artifactType=kind)
        there = Reference(registry.host, "team/app", digest=digest)
        entry = Descriptor(media_type=OCI_MANIFEST, digest=digest, size=len(more), artifact_type=kind)
        for _ in range(2):
            publisher.put_referrer(there, more, OCI_MANIFEST, subject, entry)
    found = referrers(publisher.session, at(registry), subject)
    assert {d.artifact_type for d in found} == {"a/sbom", "a/signature"}
    assert len(found) == 2
    assert [d.artifact_type for d in referrers(publisher.session, at(registry), subject, "a/sbom")] == ["a/sbom"]
    assert (fallback_tag(subject) in registry.tags["team/app"]) is not api
    if not api:
        assert registry.manifests["team/app", registry.tags["team/app"][fallback_tag(subject)]][0] == OCI_INDEX


def test_delete(registry: FakeRegistry, publisher: Publisher) -> None:
    raw, digest = image(publisher, registry)
    publisher.put_manifest(at(registry), raw, OCI_MANIFEST)
    with pytest.raises(RegistryUnsupported, match="tags"):
        publisher.delete(at(registry))
    by_digest = Reference(registry.host, "team/app", digest=digest)
    publisher.delete(by_digest)
    with pytest.raises(RegistryNotFound):
        publisher.delete(by_digest)
    publisher.delete_blob(at(registry), sha256(b"{}"))
    publisher.delete_blob(at(registry), sha256(b"{}"))
    assert not registry.blobs
