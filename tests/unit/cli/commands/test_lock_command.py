"""lamina.lock: written, enforced, and what a drift says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.lockfile import Lock, changes, read_lock, write_lock
from lamina.oci.digest import sha256
from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import push, simple_image, tar_of

Lamina = Callable[..., Any]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


def base(registry: FakeRegistry, content: bytes) -> str:
    return push(registry.host, "base", "1", simple_image([tar_of({"etc": None, "etc/release": content})]))


@pytest.fixture
def here(tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Path:
    base(registry, b"1\n")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "Dockerfile").write_text(f"FROM {registry.host}/base:1\nCOPY a /a\n")
    (tmp_path / "app" / "a").write_text("a")
    monkeypatch.chdir(tmp_path / "app")
    return tmp_path / "app"


def image_of(lamina: Lamina, *options: str) -> str:
    said = lamina("build", "-q", *options, ".")
    assert said.code == 0, said.err
    return str(said.out.strip())


def test_the_lock_holds_while_the_tag_moves(
    lamina: Lamina, here: Path, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.tags["base"]["1"]
    assert lamina("lock", ".").code == 0
    assert json.loads((here / "lamina.lock").read_text())["images"] == {f"{registry.host}/base:1": digest}
    first = image_of(lamina, "--locked")
    moved = base(registry, b"2\n")
    assert image_of(lamina, "--locked") == first
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "elsewhere"))
    elsewhere = json.loads(lamina("inspect", image_of(lamina, "--locked")).out)[0]
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "store"))
    assert elsewhere["RootFS"]["Layers"][0] == json.loads(lamina("inspect", first).out)[0]["RootFS"]["Layers"][0]
    assert image_of(lamina) != first
    assert image_of(lamina, "--locked") == first, "the newer image is here and not taken"
    said = lamina("lock", "--check", ".")
    assert (said.code, said.out) == (3, f"~ {registry.host}/base:1 {digest[7:19]} -> {moved[7:19]}\n")
    assert lamina("lock", ".").code == 0
    assert lamina("lock", "--check", ".").code == 0
    assert image_of(lamina, "--locked") != first


def test_a_locked_build_asks_nobody_for_what_is_here(lamina: Lamina, here: Path, registry: FakeRegistry) -> None:
    image_of(lamina, "--lock")
    registry.asked.clear()
    image_of(lamina, "--locked")
    assert registry.asked == []


def test_outdated_still_tells_that_the_tag_moved(lamina: Lamina, here: Path, registry: FakeRegistry) -> None:
    image_of(lamina, "--lock")
    image_of(lamina, "--locked", "-t", "app:1")
    base(registry, b"2\n")
    assert "OUTDATED app:1" in lamina("outdated").out


def test_what_is_not_locked_is_one_line(lamina: Lamina, here: Path, registry: FakeRegistry) -> None:
    (here / "lamina.lock").write_text('{"version": 1}')
    said = lamina("build", "--progress=plain", "--locked", ".")
    assert said.code == 65
    assert f"{registry.host}/base:1 is not in lamina.lock" in said.err
    assert "`lamina lock` writes it anew" in said.err


def test_a_locked_digest_that_is_gone(lamina: Lamina, here: Path, registry: FakeRegistry) -> None:
    (here / "lamina.lock").write_text(json.dumps({"version": 1, "images": {f"{registry.host}/base:1": sha256(b"gone")}}))
    said = lamina("build", "-q", "--locked", ".")
    assert said.code == 65
    assert f"{registry.host}/base:1 is locked to {sha256(b'gone')[:19]}, which is not to be had" in said.err


def test_without_a_lock_file(lamina: Lamina, here: Path) -> None:
    said = lamina("plan", "--locked", ".")
    assert said.code == 2
    assert "there is no" in said.err


def test_urls_and_repositories(lamina: Lamina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = [b"one"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body[0])))
            self.end_headers()
            self.wfile.write(body[0])

        def log_message(self, format: str, *args: object) -> None:
            pass

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"]
        return subprocess.run(["git", *who, *arguments], cwd=repository, check=True, capture_output=True, text=True).stdout.strip()

    repository = tmp_path / "repository"
    repository.mkdir()
    git("init", "-q", "-b", "main")
    (repository / "file").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "1")
    first = git("rev-parse", "HEAD")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        url = f"http://me:hidden@127.0.0.1:{server.server_address[1]}/file"
        (tmp_path / "app").mkdir()
        (tmp_path / "app" / "Dockerfile").write_text(f"FROM scratch\nADD {url} /file\nCOPY --from=code / /code\n")
        code = f"--build-context=code=file://{repository}/.git#main"
        monkeypatch.chdir(tmp_path / "app")
        said = lamina("lock", code, ".")
        assert said.code == 0, said.err
        lock = json.loads((tmp_path / "app" / "lamina.lock").read_text())
        assert lock["urls"] == {url.replace("me:hidden@", ""): sha256(b"one")}
        assert list(lock["git"].values()) == [first]
        (repository / "file").write_text("2")
        git("commit", "-q", "-a", "-m", "2")
        image = image_of(lamina, "--locked", code)
        assert image_of(lamina, code) != image, "without the lock the branch is followed"
        assert image_of(lamina, "--locked", code) == image
        body[0] = b"two"
        said = lamina("build", "-q", "--locked", code, ".")
        assert said.code == 65
        assert "/file has changed since it was locked" in said.err
        assert "hidden" not in said.err
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"images": {"a": "b"}}', '{"images": 3}', "\xff"])
def test_files_that_are_no_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / "lamina.lock").write_text(text, encoding="latin-1")
    with pytest.raises(LaminaError):
        read_lock(tmp_path / "lamina.lock")


def test_there_and_back(tmp_path: Path) -> None:
    lock = Lock({"b": sha256(b"1"), "a": sha256(b"2")}, {"u#main": "c" * 40}, {"v": sha256(b"3")})
    assert write_lock(tmp_path / "x", lock) is True
    assert write_lock(tmp_path / "x", lock) is False
    assert read_lock(tmp_path / "x") == lock
    assert changes(Lock(git={"u#main": "d" * 40, "old": "e" * 40}), lock)[-2:] == [
        f"~ u#main {'d' * 12} -> {'c' * 12}",
        f"+ v {sha256(b'3')[7:19]}",
    ]
