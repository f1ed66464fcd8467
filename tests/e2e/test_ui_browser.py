"""The dashboard in headless Chromium: pages load, the policy blocks nothing of ours, a hostile text does nothing."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lamina.layer.flavour import Flavour
from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (make test-deps)"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "store"
    reason = {"code": "files", "message": "<script>document.title='taken'</script>"}
    step = {"stage": 0, "stage_name": "a", "line": 1, "text": "RUN x", "verdict": "ran", "reason": reason}
    with LocalStore.open(root, Flavour("trusted"), now=time.time) as store:
        store.builds.add(BuildLog("b1", time.time(), "Dockerfile", msgspec.Raw(msgspec.json.encode([step]))))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = f"127.0.0.1:{port}"
    argv = [sys.executable, "-m", "lamina", "--root", str(root), "serve", "--host", f"tcp://{place}", "--insecure-tcp"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert "listening" in server.stderr.readline()
            yield f"http://{place}"
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            server.kill()


def browse(profile: Path, url: str, *flags: str) -> tuple[str, str]:
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, url], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.root
@pytest.mark.parametrize("page", ["/ui", "/ui/builds/b1", "/ui/cache", "/ui/images"])
def test_pages_in_a_browser(tmp_path: Path, address: str, page: str) -> None:
    dom, log = browse(tmp_path / "profile", address + page, "--dump-dom")
    assert "– lamina</title>" in dom
    assert "Content Security Policy" not in log
    assert "<title>taken" not in dom
    if page == "/ui/builds/b1":
        assert "<rect" in dom
        assert "&lt;script&gt;" in dom


@pytest.mark.root
@pytest.mark.parametrize("width", [400, 1100])
def test_a_picture_is_drawn(tmp_path: Path, address: str, width: int) -> None:
    picture = tmp_path / "page.png"
    browse(tmp_path / "profile", address + "/ui/builds/b1", f"--window-size={width},800", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
