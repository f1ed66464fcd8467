"""The dashboard in headless Chromium: pages load, the policy blocks nothing of ours, a hostile text does nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lamina.layer.flavour import Flavour
from lamina.pipelines.caches.keeping import CacheUse
from lamina.pipelines.run.around import StepResult
from lamina.pipelines.run.history import Project, RunRecord
from lamina.pipelines.run.record import Outlined
from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore
from lamina.testing.registry import free_port

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (make test-deps)"),
]
RUN = f"/ui/pipelines/{Project(Path(), 'shop').folder.name}/1"
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
        project = Project(root, "shop")
        number, folder = project.begin("shop <b>")
        outline = (Outlined(1, "One <script>document.title='taken'</script>", 0), Outlined(2, "Two", 1), Outlined(3, "Three", 1))
        ended = StepResult(1, outline[0].name, "passed", 0, 1.0, 100.0, caches=(CacheUse("node", "hit", "1 files"),))
        project.write(RunRecord(number, "default", "", 100.0, (ended,), outline=outline, begun={1: 100.0}, passed=True, ended=104.0))
        (folder / "logs" / "1.log").write_text("<script>document.title='taken'</script>\n")
        store.builds.add(BuildLog("b1", time.time(), "Dockerfile", msgspec.Raw(msgspec.json.encode([step]))))
    place = f"127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "lamina", "--root", str(root), "serve", "--host", f"tcp://{place}", "--insecure-tcp"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert "listening" in server.stderr.readline()
            yield f"http://{place}"
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(90)
            server.kill()


def browse(profile: Path, url: str, *flags: str) -> tuple[str, str]:
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, url], capture_output=True, text=True, timeout=180, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.root
@pytest.mark.parametrize("page", ["/ui", "/ui/builds/b1", "/ui/cache", "/ui/images", "/ui/pipelines", RUN, f"{RUN}/1"])
def test_pages_in_a_browser(tmp_path: Path, address: str, page: str) -> None:
    dom, log = browse(tmp_path / "profile", address + page, "--dump-dom")
    assert "– lamina</title>" in dom
    assert "Content Security Policy" not in log
    assert "<title>taken" not in dom
    if page in ("/ui/builds/b1", RUN):
        assert "<rect" in dom
        assert "&lt;script&gt;" in dom


@pytest.mark.root
@pytest.mark.parametrize("page", ["/ui/builds/b1", RUN])
@pytest.mark.parametrize("width", [400, 1100])
def test_a_picture_is_drawn(tmp_path: Path, address: str, width: int, page: str) -> None:
    picture = tmp_path / "page.png"
    browse(tmp_path / "profile", address + page, f"--window-size={width},800", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
