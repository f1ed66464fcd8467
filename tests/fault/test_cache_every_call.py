"""Each request that a build makes to a shared cache fails, in every way. The build goes on and makes the right image; it says so in one
warning; with `required=true` it ends in one clear line. No record is left without its blobs, and no credential is shown."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lamina.cache.remote.directory import DirectoryObjects
from lamina.cache.remote.s3 import S3Objects
from lamina.server.cacheapi import Access, CacheApi, Token
from lamina.server.cacheserver import CacheServer
from lamina.testing.breaking import BreakingWay, Kind, Wrong, recorder
from lamina.testing.commandline import Lamina, Said
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.fakes3 import FakeS3
from lamina.testing.images import digest_of

SECRET = "s3cret-of-the-cache"
PACKED = base64.b64encode(f"me:{SECRET}".encode()).decode()
WAYS: list[tuple[Kind, int, bool]] = [
    *(("status", status, True) for status in (401, 403, 404, 429, 500)),
    ("status", 503, False),
    ("mute", 0, True),
    ("cut", 1, True),
    ("cut", 40, False),
    ("gone", 0, True),
]
ALL = bool(os.environ.get("LAMINA_EVERY_CALL"))
"""Each of the requests in each way; otherwise a sample of this product."""
IDS = [f"{kind}-{value}-{'on' if on else 'once'}" for kind, value, on in WAYS]


def numbers(count: int, way: tuple[Kind, int, bool]) -> list[int]:
    """Each way has some of the requests, and each request some of the ways."""
    step = 1 if ALL else max(1, count // 3)
    return list(range(WAYS.index(way) % step, count, step))


def altered(data: bytes) -> bytes:
    """One bit in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Backend:
    """A server with an empty cache. `spec(host)` is what --cache-from and --cache-to say. `spoil(kind)` alters a byte of each object of a
    kind behind the server's back, and returns how many there were."""

    def __init__(
        self,
        upstream: str,
        spec: Callable[[str], str],
        empty: Callable[[], None],
        tokens: Callable[[], list[str]],
        spoil: Callable[[str], int],
    ) -> None:
        self.upstream = upstream
        self.spec = spec
        self.empty = empty
        self.tokens = tokens
        self.spoil = spoil


@pytest.fixture(params=["http", "oci", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with ExitStack() as stack:
        yield {"http": _http, "oci": _oci, "s3": _s3}[request.param](tmp_path, monkeypatch, stack)


def _http(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Backend:
    monkeypatch.setenv("CACHE_TOKEN", SECRET)
    access = Access({"all": Token(hashlib.sha256(SECRET.encode()).hexdigest(), write=("*",), delete=True)})
    store = DirectoryObjects(folder / "served")
    server = CacheServer(CacheApi(store, access), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.stop)

    def empty() -> None:
        store.delete([entry.name for entry in store.list("")])

    def spoil(kind: str) -> int:
        files = [path for path in (folder / "served" / kind).rglob("*") if path.is_file()]
        for path in files:
            path.chmod(0o600)
            path.write_bytes(altered(path.read_bytes()))
        return len(files)

    return Backend(f"127.0.0.1:{server.address[1]}", lambda host: f"http://{host},token-env=CACHE_TOKEN", empty, list, spoil)


def _oci(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Backend:
    registry = stack.enter_context(FakeRegistry(users={"me": SECRET}, auth="token"))

    def spec(host: str) -> str:
        (folder / "docker").mkdir(exist_ok=True)
        (folder / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": PACKED}}}))
        return f"oci://{host}/team/cache"

    def empty() -> None:
        for held in (registry.blobs, registry.manifests, registry.tags, registry.uploads):
            held.clear()

    def spoil(kind: str) -> int:
        """The bytes of blobs; of records the manifest, which holds them too, and says another digest then."""
        count = 0
        for tag, digest in registry.tags["team/cache"].items():
            if tag.startswith(kind[0] + "."):
                media_type, raw = registry.manifests["team/cache", digest]
                document = json.loads(raw)
                layer = document["layers"][0]
                if kind == "blobs":
                    registry.blobs["team/cache", layer["digest"]] = altered(registry.blobs["team/cache", layer["digest"]])
                else:
                    data = altered(base64.b64decode(layer["data"]))
                    layer["data"] = base64.b64encode(data).decode()
                    layer["digest"] = digest_of(data)
                    registry.manifests["team/cache", digest] = media_type, json.dumps(document).encode()
                count += 1
        return count

    return Backend(registry.host, spec, empty, lambda: list(registry.granted), spoil)


def _s3(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Backend:
    obstore = pytest.importorskip("obstore.store")
    real: Any = obstore.S3Store

    def quick(bucket: str, **settings: Any) -> Any:
        backoff = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2}
        return real(bucket, **{**settings, "retry_config": {**settings["retry_config"], "backoff": backoff}})

    monkeypatch.setattr(obstore, "S3Store", quick)
    monkeypatch.setitem(S3Objects.__init__.__kwdefaults__ or {}, "sleep", lambda seconds: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    server = stack.enter_context(FakeS3())

    def empty() -> None:
        server.objects.clear()
        server.uploads.clear()

    upstream = server.endpoint.removeprefix("http://")

    def spoil(kind: str) -> int:
        names = [name for name in server.objects if name.startswith(f"bucket/cache/{kind}/")]
        for name in names:
            data, modified = server.objects[name]
            server.objects[name] = altered(data), modified
        return len(names)

    return Backend(upstream, lambda host: f"s3://bucket/cache,endpoint=http://{host},region=us-east-1", empty, list, spoil)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch AS a\nCOPY one /one\nCOPY two /two\nFROM scratch\nCOPY --from=a /two /three\n")
    (folder / "one").write_text("one\n")
    (folder / "two").write_bytes(bytes(range(256)) * 40)
    return folder


class Machines:
    """Stores that begin empty."""

    def __init__(self, lamina: Lamina, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        self.lamina = lamina
        self._monkeypatch = monkeypatch
        self._folder = folder
        self._count = 0
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000")  # what is built again has the same id

    def fresh(self) -> None:
        self._count += 1
        self._monkeypatch.setenv("LAMINA_ROOT", str(self._folder / f"machine{self._count}"))

    def build(self, app: Path, *options: str) -> Said:
        return self.lamina("build", "--progress=plain", "-t", "app:1", *options, str(app))


@pytest.fixture
def machines(lamina: Lamina, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machines:
    return Machines(lamina, monkeypatch, tmp_path)


def judge(backend: Backend, said: Said, expected: str, *, what: object, required: bool = False) -> None:
    text = said.out + said.err
    for secret in (SECRET, PACKED, *backend.tokens()):
        assert secret not in text, what
    assert "Traceback" not in text, (what, said)
    assert "bug in lamina" not in text, (what, said)
    warned = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    if said.code == 0:
        assert said.out.strip() == expected, (what, said)
        assert "error: " not in said.err
        assert len(warned) <= 1, (what, said)
        assert all("is left out: " in line for line in warned)
    else:
        assert required, (what, said)
        assert said.code in {66, 69, 74, 76, 77}, (what, said)
        named = [line for line in said.err.splitlines() if "error: " in line]
        assert len(named) == 1, (what, said)


def sound(lamina: Lamina) -> None:
    checked = lamina("check")
    assert checked.code == 0, checked


def test_a_store_whose_layers_stayed_in_the_cache_is_sound(machines: Machines, app: Path, tmp_path: Path) -> None:
    """A build that takes all steps from a shared cache fetches the layers of its result only. `check` called the other records damaged, and
    --repair threw them away."""
    cache = f"dir:{tmp_path / 'cache'}"
    machines.fresh()
    machines.build(app, "--cache-to", cache)
    machines.fresh()
    assert machines.build(app, "--cache-from", cache).err.count("CACHED") == 3
    sound(machines.lamina)


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
def test_lookup(machines: Machines, backend: Backend, app: Path, kind: Kind, value: int, on: bool) -> None:
    machines.fresh()
    first = machines.build(app, "--cache-to", backend.spec(backend.upstream))
    assert first.code == 0
    expected = first.out.strip()
    with BreakingWay(backend.upstream) as way:
        machines.fresh()
        said = machines.build(app, "--cache-from", backend.spec(way.host))
        judge(backend, said, expected, what=None)
        assert said.err.count("CACHED") == 3, said
        count = way.count
    assert count
    chosen = numbers(count, (kind, value, on))
    for number in chosen:
        for required in (False, True) if ALL or number == chosen[-1] else (False,):
            wrong = Wrong(number, kind, value, on)
            with BreakingWay(backend.upstream, wrong) as way:
                machines.fresh()
                said = machines.build(app, "--cache-from", backend.spec(way.host) + (",required=true" if required else ""))
                judge(backend, said, expected, what=(wrong, [str(sight) for sight in way.seen]), required=required)
                if said.code:
                    assert machines.lamina("images", "-q").out == ""
    sound(machines.lamina)


@pytest.mark.parametrize(("kind", "value", "on"), WAYS, ids=IDS)
def test_publish(machines: Machines, backend: Backend, app: Path, kind: Kind, value: int, on: bool) -> None:
    machines.fresh()
    with BreakingWay(backend.upstream) as way:
        first = machines.build(app, "--cache-to", backend.spec(way.host))
        assert first.code == 0
        count = way.count
    for number in numbers(count, (kind, value, on)):
        backend.empty()
        wrong = Wrong(number, kind, value, on)
        with BreakingWay(backend.upstream, wrong) as way:
            said = machines.build(app, "--cache-to", backend.spec(way.host))
            judge(backend, said, first.out.strip(), what=(wrong, [str(sight) for sight in way.seen]))
            if kind == "status" and not on:
                assert "is left out" not in said.err, (wrong, said)
        if not (kind == "status" and number < 2):  # nothing was written
            verified = machines.lamina("cache", "verify", backend.spec(backend.upstream))
            assert verified.code == 0, (wrong, verified)
    sound(machines.lamina)


@pytest.mark.parametrize("kind", ["records", "blobs"])
def test_what_was_altered_in_the_backend_is_not_used(machines: Machines, backend: Backend, app: Path, kind: str) -> None:
    """The steps run again and make the right image; `verify` names the damage, and the next build puts right what it can."""
    machines.fresh()
    expected = machines.build(app, "--cache-to", backend.spec(backend.upstream)).out.strip()
    assert backend.spoil(kind)
    machines.fresh()
    said = machines.build(app, "--cache-from", backend.spec(backend.upstream))
    judge(backend, said, expected, what=kind)
    assert said.err.count("RAN ") == 3, said
    assert machines.lamina("cache", "verify", "--bytes", backend.spec(backend.upstream)).code == 1
    sound(machines.lamina)


@pytest.mark.slow
def test_a_redirect_of_every_call_gets_no_secret(machines: Machines, backend: Backend, app: Path) -> None:
    machines.fresh()
    expected = machines.build(app).out.strip()
    with recorder() as other:
        with BreakingWay(backend.upstream) as way:
            machines.build(app, "--cache-to", backend.spec(way.host), "--cache-from", backend.spec(way.host))
            count = way.count
        for number in range(0, count, 1 if ALL else max(1, count // 6)):
            backend.empty()
            with BreakingWay(backend.upstream, Wrong(number, "redirect", place=other.url)) as way:
                judge(backend, machines.build(app, "--cache-to", backend.spec(way.host)), expected, what=number)
                machines.fresh()
                judge(backend, machines.build(app, "--cache-from", backend.spec(way.host)), expected, what=number)
        for secret in (SECRET, PACKED, *backend.tokens()):
            assert secret not in other.text()
        assert not any(value.startswith(("Bearer", "Basic")) for sight in other.seen for value in sight.headers.values())


@pytest.mark.parametrize("kind", ["hang", "trickle"])
def test_a_server_that_hangs_costs_its_time_limit_once(machines: Machines, backend: Backend, app: Path, kind: Kind) -> None:
    """A cache that took the connection and never answered used to be waited for four minutes for each of the requests that were under way."""
    machines.fresh()
    expected = machines.build(app, "--cache-to", backend.spec(backend.upstream)).out.strip()
    with BreakingWay(backend.upstream) as way:
        machines.fresh()
        machines.build(app, "--cache-from", backend.spec(way.host))
        count = way.count
    for number in sorted({0, count // 2}):
        with BreakingWay(backend.upstream, Wrong(number, kind, on=True)) as way:
            machines.fresh()
            said = machines.build(app, "--cache-from", backend.spec(way.host) + ",timeout=0.2")
            judge(backend, said, expected, what=number)
            assert way.count <= number + 16, "not asked again and again"
