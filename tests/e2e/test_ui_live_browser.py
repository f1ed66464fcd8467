"""A client's build in headless Chromium while it runs: it goes on by itself, by keyboard, in the dark, and without scripting."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lamina.testing.chromium import Tab, browsing
from lamina.testing.project import Project
from lamina.testing.registry import free_port

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (make test-deps)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the store of these tests has root's layers"),
]
HOSTILE = "<script>document.title='taken'</script>"
_FOCUS = """(() => { const one = document.activeElement, style = getComputedStyle(one);
return [one.tagName, one.getAttribute("href") || one.getAttribute("aria-label") || "", style.outlineStyle, parseFloat(style.outlineWidth)]; })()"""


class Gate:
    """A file behind HTTP that nobody gets before `open` is set."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/file"
        self.open = threading.Event()


@pytest.fixture
def gate() -> Iterator[Gate]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.open.wait(120)
            self.send_response(200)
            self.send_header("content-length", "1")
            self.end_headers()
            with contextlib.suppress(OSError):  # the build was given up
                self.wfile.write(b"x")

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Gate(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        found.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def engine(project: Project) -> Iterator[str]:
    place = f"127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "lamina", "--root", str(project.root), "serve", "--host", f"tcp://{place}", "--insecure-tcp"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert "listening" in server.stderr.readline()
            yield place
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(90)
            server.kill()


def waiting(gate: Gate) -> str:
    return f"""FROM base:1 AS tools
RUN echo before > /before
RUN echo "{HOSTILE}" && printf '\\033[32mcompiling\\033[0m\\n' && wget -q -O /waited {gate.url}
FROM base:1
COPY --from=tools /etc/passwd /p
"""


@contextmanager
def building(engine: str, gate: Gate) -> Iterator[None]:
    """A build of a client that stands before the gate; it has ended when the block has."""
    dockerfile = waiting(gate)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        archive.addfile(member, io.BytesIO(dockerfile.encode()))
    answers: list[bytes] = []

    def ask() -> None:
        connection = http.client.HTTPConnection(engine, timeout=120)
        connection.request("POST", "/build?t=shop:1&networkmode=host", context.getvalue(), {"Content-Type": "application/x-tar"})
        answers.append(connection.getresponse().read())
        connection.close()

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        gate.open.set()
        client.join(60)
    assert b"Successfully tagged" in answers[0], answers


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with browsing(CHROMIUM, tmp_path / "profile") as tab:
        yield tab


def kept_pictures(tmp_path: Path) -> Path:
    """Where pictures go: $LAMINA_PICTURES keeps them."""
    return Path(os.environ.get("LAMINA_PICTURES") or tmp_path)


def dark(tab: Tab) -> None:
    tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])


def test_a_build_goes_on_before_the_eyes(engine: str, gate: Gate, tab: Tab, tmp_path: Path) -> None:
    tab.open(f"http://{engine}/ui")
    assert "Nothing was built yet" in tab.text()
    with building(engine, gate):
        # Nobody touches the page: it finds the build by itself.
        tab.until("document.querySelector('main a[href^=\"/ui/live/\"]')")
        tab.value("document.querySelector('main a[href^=\"/ui/live/\"]').click()")
        tab.until("location.pathname.startsWith('/ui/live/') && document.querySelector('pre.log')")
        shown = tab.text()
        assert "compiling" in shown
        assert "running" in shown
        assert "waiting" in shown
        assert "first build of this step" in shown
        assert HOSTILE in shown
        assert tab.value("document.title").startswith("Build of ")
        # The graph, whose running step is a link to its row, and the timeline, whose bar grows by itself.
        assert tab.value("document.querySelectorAll('svg[aria-label=\"Graph of the build\"] a.node').length") == 3
        assert tab.value("document.querySelector('a.node.running title').textContent").startswith("RUN echo")
        assert tab.value("document.querySelectorAll('svg[aria-label=\"Graph of the build\"] path.edge').length") == 2
        bar = "document.querySelector('svg[aria-label=\"Timeline of the build\"] .bar.running + text').textContent"
        before = tab.value(bar)
        tab.until(f"{bar} != {before!r}")
        tab.picture(kept_pictures(tmp_path) / "live.png")
        light = tab.value("getComputedStyle(document.body).backgroundColor")
        dark(tab)
        assert tab.value("getComputedStyle(document.body).backgroundColor") != light
        tab.picture(kept_pictures(tmp_path) / "live-dark.png")
    tab.until("location.pathname.startsWith('/ui/builds/') && document.querySelector('svg')")
    assert "COPY --from=tools" in tab.text()


def test_a_build_in_a_terminal_is_shown_too(engine: str, project: Project, gate: Gate, tab: Tab) -> None:
    (project.folder / "Dockerfile").write_text(waiting(gate))
    argv = [sys.executable, "-m", "lamina", "--root", str(project.root), "build", "--network", "host", "-t", "shop:2", str(project.folder)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as build:
        try:
            tab.open(f"http://{engine}/ui")
            tab.until("document.querySelector('main a[href^=\"/ui/live/\"]')")
            assert "lamina build" in tab.text()
            tab.value("document.querySelector('main a[href^=\"/ui/live/\"]').click()")
            tab.until(
                "location.pathname.startsWith('/ui/live/') && document.querySelector('pre.log') && document.querySelector('a.node.running')"
            )
            assert "compiling" in tab.text()
            assert "shop:2" in tab.text()
            gate.open.set()
            said, _ = build.communicate(timeout=90)
            assert build.returncode == 0, said
        finally:
            build.kill()
    tab.until("location.pathname.startsWith('/ui/builds/') && document.querySelector('svg')")
    assert "COPY --from=tools" in tab.text()
    tab.open(f"http://{engine}/ui")
    assert "Running now" not in tab.text()


def test_by_keyboard_alone(engine: str, gate: Gate, tab: Tab) -> None:
    with building(engine, gate):
        tab.open(f"http://{engine}/ui")
        tab.until("document.readyState == 'complete' && document.querySelector('main a[href^=\"/ui/live/\"]')")
        visited = []
        for _ in range(12):
            tab.press("Tab")
            tag, name, outline, width = tab.value(_FOCUS)
            assert (outline, width >= 2) == ("solid", True), (tag, name)
            visited.append(name)
            if name.startswith("/ui/live/"):
                break
        assert visited[:5] == ["#content", "/ui", "/ui/pipelines", "/ui/cache", "/ui/images"]
        assert visited[5:] == ["Builds that run", visited[-1]]
        # The page renews itself below the focus, and the focus stays.
        tab.value("document.querySelector('main').firstChild.dataset.old = 'yes'")
        tab.until("!document.querySelector('main [data-old]')")
        assert tab.value(_FOCUS)[1] == visited[-1]
        tab.press("Enter")
        # complete: with its style sheet, without which the browser draws its own outline
        tab.until("location.pathname.startsWith('/ui/live/') && document.readyState == 'complete' && document.querySelector('pre.log')")
        for _ in range(20):
            tab.press("Tab")
            tag, name, outline, width = tab.value(_FOCUS)
            assert (outline, width >= 2) == ("solid", True), (tag, name)
            if tag == "PRE":
                break
        assert name.startswith("Output of RUN")


def test_without_scripting(engine: str, gate: Gate, tab: Tab, tmp_path: Path) -> None:
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    with building(engine, gate):
        while True:
            tab.open(f"http://{engine}/ui")
            place = tab.value("(document.querySelector('main a[href^=\"/ui/live/\"]') || {}).href")
            if place:
                break
        tab.open(place)
        # The browser loads the page again by itself: first until the output is there, then to its end.
        tab.until("document.querySelector('pre.log')")
        assert "compiling" in tab.text()
        tab.picture(kept_pictures(tmp_path) / "live-no-script.png")
    tab.until("location.pathname.startsWith('/ui/builds/') && document.querySelector('svg')")
