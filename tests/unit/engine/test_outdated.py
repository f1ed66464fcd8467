"""How much is asked for many images: each base, URL and repository once; what does not answer is unknown and harms nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import msgspec
import pytest

from lamina.engine.freshness.origins import SCHEMA, BaseUse, GitUse, Origin, StageUse, UrlUse, WatchUse
from lamina.engine.freshness.outdated import ImageReport, Outdated, outdated
from lamina.engine.freshness.recipe import Given, Recipe
from lamina.engine.registries.access import client_for
from lamina.engine.request import Secret
from lamina.layer.flavour import Flavour
from lamina.oci.digest import Digest, sha256
from lamina.oci.reference import Reference
from lamina.registry.client import RegistryClient
from lamina.registry.errors import RegistryUnreachable
from lamina.store.local import LocalStore
from lamina.store.refs import Image
from lamina.testing.images import serve, simple_image
from lamina.testing.registry import MemoryRegistry

PLATFORM = "linux/amd64"


class Web:
    """A server of `files`; `seen` are the requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags = True
        self.seen: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.seen.append(f"{self.command} {self.path}")
                data = web.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                if web.etags and data is not None:
                    self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data or b"")

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "root", Flavour("user"), now=lambda: 1e9) as opened:
        yield opened


def built(store: LocalStore, name: str, **origin: object) -> None:
    """An image as if it had been built here."""
    config, manifest = (store.blobs.put(f"{kind} {name}".encode()) for kind in ("config", "manifest"))
    full = f"docker.io/library/{name}:1"
    store.images.put(Image(config, manifest, PLATFORM, 0.0, 0, ()), [full])
    recipe = origin.pop("recipe", Recipe(folder="/", text="FROM scratch\n"))
    document = Origin(PLATFORM, "Dockerfile", recipe, schema=SCHEMA, **origin)  # type: ignore[arg-type]  # the tests give what it takes
    store.origins.put(config, [full], msgspec.json.encode(document))


def asked(store: LocalStore, given: Given | None = None) -> Outdated:
    client = client_for(None, {}, None, (), 5.0)
    return outdated(store, lambda: client, given=given or Given())


def only(found: Outdated) -> ImageReport:
    (image,) = found.images
    return image


def base(host: str, name: str, top: Digest) -> BaseUse:
    return BaseUse(f"{host}/{name}:1", PLATFORM, sha256(b"c"), top, "content", top)


def test_many_images_few_requests(store: LocalStore) -> None:
    with MemoryRegistry() as registry:
        tops = {name: Digest(serve(registry, name, "1", simple_image([]))) for name in ("a", "b", "c")}
        for number in range(60):
            name = "abc"[number % 3]
            gone = base(registry.host, "gone", sha256(b"x"))
            built(store, f"app{number}", bases=(base(registry.host, name, tops[name]), gone))
        registry.seen.clear()
        found = asked(store)
        assert found.asked == 4
        heads = sorted(each.path for each in registry.seen if each.method == "HEAD")
        assert heads == [f"/v2/{name}/manifests/1" for name in ("a", "b", "c", "gone")], "one for each base, for the one that is gone too"
        assert len(registry.seen) <= 6, "and one that asks how to log in, one for the words of the refusal"
    assert {image.verdict for image in found.images} == {"unknown"}
    assert {each.verdict for image in found.images for each in image.bases if "gone" not in each.reference} == {"current"}


def test_a_registry_that_is_not_there_is_asked_once(store: LocalStore) -> None:
    for number in range(20):
        built(store, f"app{number}", bases=(base("127.0.0.1:9", f"x{number}", sha256(b"x")),))
    tried: list[str] = []

    class Client:
        def digest_of(self, reference: Reference) -> Digest:
            tried.append(str(reference))
            raise RegistryUnreachable("no connection")

    found = outdated(store, lambda: cast(RegistryClient, Client()))
    assert (found.asked, {image.verdict for image in found.images}) == (20, {"unknown"})
    assert len(tried) == 1, "a registry that gave no connection is not tried for each of its images"


def test_urls(store: LocalStore, web: Web) -> None:
    web.files = {"/same": b"same", "/new": b"new"}
    for name, was in (("same", b"same"), ("new", b"old")):
        digest = sha256(was)
        store.facts.set_http(f"{web.url}/{name}", digest, f'"{hashlib.md5(was).hexdigest()}"', None)
        for number in range(3):
            stage = StageUse("0", remotes=(f"{web.url}/{name}",))
            built(store, f"{name}{number}", urls=(UrlUse(f"{web.url}/{name}", digest),), stages=(stage, StageUse("1", copies=("0",))))
    found = asked(store)
    assert found.asked_remotes == 2
    assert sorted(web.seen) == ["GET /new", "HEAD /new", "HEAD /same"], "with the ETag of the download HEAD is enough"
    verdicts = {image.names[0].rpartition("/")[2]: image.verdict for image in found.images}
    assert verdicts["same0:1"] == "current"
    assert verdicts["new0:1"] == "outdated"
    moved = next(image for image in found.images if image.verdict == "outdated")
    assert [(stage.stage, stage.verdict) for stage in moved.stages] == [("0", "follows"), ("1", "if-changed")]
    assert moved.remotes[0].now == sha256(b"new")


def test_another_etag_with_the_same_bytes_is_current(store: LocalStore, web: Web) -> None:
    web.files = {"/a": b"a"}
    store.facts.set_http(f"{web.url}/a", sha256(b"a"), '"other"', None)
    built(store, "app", urls=(UrlUse(f"{web.url}/a", sha256(b"a")),))
    assert only(asked(store)).verdict == "current"


def test_a_large_url_is_not_read(store: LocalStore, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.engine.freshness.remotes._READ", 10)
    web.files = {"/a": b"a" * 100}
    store.facts.set_http(f"{web.url}/a", sha256(b"b"), '"other"', None)
    built(store, "app", urls=(UrlUse(f"{web.url}/a", sha256(b"b")),))
    assert only(asked(store)).remotes[0].verdict == "moved"
    web.etags = False
    (remote,) = only(asked(store)).remotes
    assert (remote.verdict, remote.why) == ("unknown", "the server gives neither ETag nor date, and it is too large to be read for this")
    assert web.seen == ["HEAD /a", "HEAD /a"]


def test_what_is_gone_or_was_not_kept_is_unknown(store: LocalStore, web: Web) -> None:
    built(store, "gone", urls=(UrlUse(f"{web.url}/gone", sha256(b"a")),))
    built(store, "signed", urls=(UrlUse(f"{web.url}/x?sha256:0123456789abcdef", sha256(b"a")),))
    found = asked(store)
    why = {image.names[0].rpartition("/")[2]: image.remotes[0].why for image in found.images}
    assert "404" in why["gone:1"]
    assert why["signed:1"] == "its address has a query, which is not kept"
    assert (found.asked_remotes, {image.verdict for image in found.images}) == (1, {"unknown"})


def test_watched_urls(store: LocalStore, web: Web) -> None:
    web.files = {"/w": b"1"}
    etag = hashlib.md5(b"1").hexdigest()
    built(store, "app", watches=(WatchUse(f"{web.url}/w", f'etag:"{etag}"'),))
    assert only(asked(store)).verdict == "current"
    web.files["/w"] = b"2"
    assert only(asked(store)).verdict == "outdated"


def test_repositories(store: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "r.git"

    def git(*words: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
        return subprocess.run(["git", *settings, *words], check=True, capture_output=True, text=True, env=environment).stdout.strip()

    folder.mkdir()
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "one")
    first, url = git("rev-parse", "HEAD"), f"file://{folder}"
    for number in range(3):
        built(store, f"app{number}", gits=(GitUse(url, "main", first),), stages=(StageUse("0", remotes=(f"{url}#main",)),))
    built(store, "pinned", gits=(GitUse(url, first, first),))
    place = Recipe(place=f"{url}#main", inside="Dockerfile")
    built(store, "context", gits=(GitUse(url, "main", first),), stages=(StageUse("0", contexts=("context",)),), recipe=place)
    assert {image.verdict for image in asked(store).images} == {"current"}
    git("commit", "-q", "--allow-empty", "-m", "two")
    found = asked(store)
    assert found.asked_remotes == 1
    stages = {image.names[0].rpartition("/")[2]: [stage.verdict for stage in image.stages] for image in found.behind}
    assert stages == {"app0:1": ["follows"], "app1:1": ["follows"], "app2:1": ["follows"], "context:1": ["if-changed"]}


def test_secrets_that_are_given_make_a_rebuild_possible(store: LocalStore, web: Web) -> None:
    web.files = {"/a": b"new"}
    recipe = Recipe(folder="/", text="FROM scratch\n", secret_ids=("npm",))
    built(store, "app", urls=(UrlUse(f"{web.url}/a", sha256(b"old")),), recipe=recipe)
    assert only(asked(store)).cannot == "--secret npm was no file: give it again"
    assert only(asked(store, Given((Secret("npm", value=b"x"),)))).cannot is None


def test_names_given_by_tag(store: LocalStore, web: Web) -> None:
    web.files = {"/a": b"new"}
    built(store, "app", urls=(UrlUse(f"{web.url}/a", sha256(b"old")),))
    image = store.images.find("docker.io/library/app:1")
    tagged = "registry.example/app:1"
    store.images.tag(image.id, [tagged])
    found = asked(store)
    assert (only(found).names, found.untold) == (("docker.io/library/app:1",), ()), "a snapshot's name is not to move"
    client = client_for(None, {}, None, (), 5.0)
    assert only(outdated(store, lambda: client, [tagged])).names == ("docker.io/library/app:1",)
    store.images.untag("docker.io/library/app:1")
    found = asked(store)
    assert (only(found).verdict, only(found).names) == ("outdated", (tagged,))
    assert only(found).cannot == "registry.example/app:1 was given by `lamina tag`, no build is known by that name: tag again"
