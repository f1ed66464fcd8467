from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lamina.engine.runners.http import Answer, ChecksumMismatch, FetchFailed, fetch, filename, http_date, probe
from lamina.oci.digest import sha256

BODY = b"some bytes" * 1000
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


class Pages(BaseHTTPRequestHandler):
    seen: list[tuple[str, str]]

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        type(self).seen.append((self.command, self.path))
        page = self.path.split("?")[0]
        if page == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if page == "/nowhere":
            self.send_response(302)
            self.send_header("Location", "http://[::1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if page == "/missing" or (page == "/nohead" and not body):
            self.send_error(404 if page == "/missing" else 405)
            return
        if page == "/etag" and self.headers.get("If-None-Match") == '"one"':
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        if page in ("/etag", "/weak"):
            self.send_header("ETag", '"one"' if page == "/etag" else 'W/"one"')
        if page in ("/file", "/etag"):
            self.send_header("Last-Modified", MODIFIED)
        if page == "/named":
            self.send_header("Content-Disposition", 'attachment; filename="../../evil.sh"')
        self.send_header("Content-Length", str(len(BODY) + (5 if page == "/short" else 0)))
        self.end_headers()
        if body:
            self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Pages.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


class Memory:
    def __init__(self) -> None:
        self.known: dict[str, Answer] = {}

    def get(self, url: str) -> Answer | None:
        return self.known.get(url)

    def put(self, url: str, answer: Answer) -> None:
        self.known[url] = answer


@pytest.mark.parametrize("path", ["/file", "/redirect"])
def test_fetch(server: str, tmp_path: Path, path: str) -> None:
    found = fetch(server + path, tmp_path / "x", checksum=sha256(BODY))
    assert (tmp_path / "x").read_bytes() == BODY
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert (found.digest, found.size, found.mtime, found.filename) == (sha256(BODY), len(BODY), 1445412480.0, path[1:])


def test_other_algorithms(server: str, tmp_path: Path) -> None:
    from lamina.oci.digest import parse_digest

    wanted = parse_digest("sha512:" + hashlib.sha512(BODY).hexdigest())
    assert fetch(server + "/file", tmp_path / "x", checksum=wanted).digest == wanted


def test_checksum_mismatch_keeps_nothing(server: str, tmp_path: Path) -> None:
    memory = Memory()
    with pytest.raises(ChecksumMismatch, match="not sha256:"):
        fetch(server + "/file", tmp_path / "x", checksum=sha256(b"else"), answers=memory)
    assert list(tmp_path.iterdir()) == []
    assert memory.known == {}


def test_broken_off_keeps_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed) as caught:
        fetch(server + "/short", tmp_path / "x", timeout=2)
    assert caught.value.transient
    assert list(tmp_path.iterdir()) == []


def test_not_modified(server: str, tmp_path: Path) -> None:
    memory = Memory()
    first = fetch(server + "/etag", tmp_path / "x", answers=memory)
    again = fetch(server + "/etag", tmp_path / "y", answers=memory, have=True)
    assert (again.path, again.digest, again.filename, again.mtime) == (None, first.digest, "etag", first.mtime)
    assert fetch(server + "/etag", tmp_path / "z", answers=memory).path == tmp_path / "z"
    assert fetch(server + "/etag", tmp_path / "q", answers=memory, have=True, checksum=first.digest).path is None
    with pytest.raises(ChecksumMismatch):
        fetch(server + "/etag", tmp_path / "r", answers=memory, have=True, checksum=sha256(b"other"))


def test_missing_and_unreachable(server: str, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"/missing: the server answered 404"):
        fetch(f"{server}/missing?token=hush", tmp_path / "x")
    with pytest.raises(FetchFailed) as caught:
        fetch("http://user:hush@127.0.0.1:1/x?token=hush", tmp_path / "x", timeout=0.2)
    assert caught.value.transient
    assert "hush" not in caught.value.message
    assert "refused" in caught.value.message
    with pytest.raises(FetchFailed):
        fetch("http://", tmp_path / "x")


def test_probe(server: str) -> None:
    assert probe(server + "/etag") == probe(server + "/weak") == 'etag:"one"'
    assert probe(server + "/file") == f"modified:{MODIFIED}"
    assert all(method == "HEAD" for method, _ in Pages.seen)
    digest = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    assert probe(server + "/plain") == digest
    assert probe(server + "/nohead") == digest
    with pytest.raises(FetchFailed):
        probe(server + "/missing")


def test_a_redirect_to_what_is_no_address(server: str, tmp_path: Path) -> None:
    """Python's ValueError was shown as a bug of lamina."""
    with pytest.raises(FetchFailed, match="cannot fetch"):
        fetch(server + "/nowhere", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("url", "disposition", "name"),
    [
        ("https://h/a/b.tar.gz?x=1", None, "b.tar.gz"),
        ("https://h/a/b/", None, "b"),
        ("https://h", None, "download"),
        ("https://h/", None, "download"),
        ("https://h/a%20b", None, "a b"),
        ("https://h/..", None, "download"),
        ("https://h/x%2f..%2fy", None, "y"),
        ("https://h/x", 'attachment; filename="y z"', "y z"),
        ("https://h/x", 'attachment; filename="../../y"', "y"),
        ("https://h/x", "attachment; filename=..", "x"),
        ("https://h/x", "inline", "x"),
        ("https://h/x", "attachment; filename*;filename*0;", "x"),
    ],
)
def test_filename(url: str, disposition: str | None, name: str) -> None:
    assert filename(url, disposition) == name


def test_disposition_of_a_server(server: str, tmp_path: Path) -> None:
    assert fetch(server + "/named", tmp_path / "x").filename == "evil.sh"


def test_http_date() -> None:
    assert http_date(MODIFIED) == 1445412480.0
    assert http_date("yesterday") is None
    assert http_date("") is None
