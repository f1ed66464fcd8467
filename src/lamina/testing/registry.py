"""Registries for tests: a small one in memory with knobs for misbehaviour, and Debian's docker-registry on loopback."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass
class Faults:
    """What the memory registry does wrong. Sets name blob or manifest digests; lists are used up from the front."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # (status, headers) instead of the next answers
    tear: list[int] = field(default_factory=list)  # the next blob answers end after so many bytes
    corrupt: set[str] = field(default_factory=set)  # one bit flipped
    endless: set[str] = field(default_factory=set)  # zeros without end, no Content-Length
    wrong_header: str = ""  # Docker-Content-Digest of every manifest
    no_digest_header: bool = False
    no_range: bool = False
    stated_length: dict[str, int] = field(default_factory=dict)  # Content-Length of these blobs, whatever they have
    trickle: set[str] = field(default_factory=set)  # sent byte by byte, with pauses
    token: str = ""  # needed for everything but the token service
    redirect_blobs: str = ""  # base URL that blob GETs are sent to
    redirect_loop: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # a busy machine takes connections late; with the default of 5 the sixth waits for seconds
    daemon_threads = True


class MemoryRegistry:
    """Serves on 127.0.0.1 inside `with`. `blobs` by digest; `manifests`: (repository, tag or digest) -> (media type, bytes)."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.faults = Faults()
        self.seen: list[Seen] = []
        registry = self

        class Handler(_Handler):
            owner = registry

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def put_blob(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def put_manifest(self, repository: str, data: bytes, media_type: str, tag: str = "") -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.manifests[repository, digest] = (media_type, data)
        if tag:
            self.manifests[repository, tag] = (media_type, data)
        return digest

    def __enter__(self) -> MemoryRegistry:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: MemoryRegistry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_POST(self) -> None:
        if self._before():
            return
        self._body()
        repository = self.path.split("/blobs/uploads/")[0].removeprefix("/v2/")
        self._answer(202, b"", {"Location": f"/v2/{repository}/blobs/uploads/1"})

    def do_PUT(self) -> None:
        if self._before():
            return
        data = self._body()
        if "/blobs/uploads/" in self.path:
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            good = self.owner.put_blob(data) == digest
            self._answer(201 if good else 400)
            return
        repository, _, reference = self.path.removeprefix("/v2/").partition("/manifests/")
        self.owner.put_manifest(repository, data, self.headers["Content-Type"], "" if ":" in reference else reference)
        self._answer(201)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _before(self) -> bool:
        """True when a fault has answered already."""
        owner, faults = self.owner, self.owner.faults
        owner.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if faults.answers:
            status, headers = faults.answers.pop(0)
            self._answer(status, b"", headers)
            return True
        if faults.redirect_loop:
            self._answer(307, b"", {"Location": self.path})
            return True
        if self.path.startswith("/token"):
            self._answer(200, json.dumps({"token": faults.token}).encode())
            return True
        if faults.token and self.headers.get("Authorization") != f"Bearer {faults.token}":
            challenge = f'Bearer realm="http://{owner.host}/token",service="memory",scope="repository:x:pull"'
            self._answer(401, b"{}", {"WWW-Authenticate": challenge})
            return True
        return False

    def _get(self) -> None:
        if self._before():
            return
        if self.path == "/v2/":
            self._answer(200, b"{}")
        elif "/manifests/" in self.path:
            self._manifest()
        elif "/blobs/" in self.path:
            self._blob()
        else:
            self._answer(404)

    def _manifest(self) -> None:
        owner, faults = self.owner, self.owner.faults
        repository, _, reference = self.path.removeprefix("/v2/").partition("/manifests/")
        found = owner.manifests.get((repository, reference))
        if found is None:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
            return
        media_type, data = found
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        headers = {"Content-Type": media_type, "Docker-Content-Digest": faults.wrong_header or digest}
        if faults.no_digest_header:
            del headers["Docker-Content-Digest"]
        if digest in faults.endless:
            self._endless()
            return
        self._answer(200, _flipped(data) if digest in faults.corrupt else data, headers)

    def _blob(self) -> None:
        owner, faults = self.owner, self.owner.faults
        digest = self.path.rpartition("/")[2]
        if faults.redirect_blobs:
            self._answer(307, b"", {"Location": faults.redirect_blobs + self.path})
            return
        data = owner.blobs.get(digest)
        if digest in faults.endless:
            self._endless()
            return
        if data is None:
            self._answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
            return
        if digest in faults.corrupt:
            data = _flipped(data)
        status, headers, wanted = 200, {}, self.headers.get("Range", "")
        if wanted.startswith("bytes=") and not faults.no_range:
            start = int(wanted[6:].split("-")[0])
            status, headers = 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            data = data[start:]
        if digest in faults.trickle and self.command == "GET":
            self._head(status, len(data), headers)
            self._trickle(data)
            return
        if digest in faults.stated_length and self.command == "GET":
            self._head(status, faults.stated_length[digest], headers)
            self.wfile.write(data)
            self.close_connection = True
            return
        if faults.tear and self.command == "GET":
            keep = faults.tear.pop(0)
            self._head(status, len(data), headers)
            self.wfile.write(data[:keep])
            self.close_connection = True
            return
        self._answer(status, data, headers)

    def _trickle(self, data: bytes) -> None:
        try:
            for at in range(len(data)):
                self.wfile.write(data[at : at + 1])
                time.sleep(0.01)
        except OSError:
            self.close_connection = True

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(4096):
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        try:
            self._head(status, len(body), headers)
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            self.close_connection = True


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


_claims: list[socket.socket] = []  # until this process ends


def free_port() -> int:
    """A port for a server that is started later: below those that the kernel gives to connections, so that none takes it meanwhile.

    No port is given twice: each is claimed by a name that other processes of the tests see too.
    """
    for port in random.SystemRandom().sample(_ports(), 200):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0lamina-tests-port-{port}")
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise OSError("no free port below those that the kernel gives to connections")


def _ports() -> range:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        first = 32768
    return range(10_000, first) if first > 11_000 else range(2_000, 65_000)


@contextmanager
def docker_registry(root: Path, *, auth: str = "", tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """docker-registry with its storage under `root`; yields "127.0.0.1:PORT". FileNotFoundError where it is not installed.

    `auth`: the `auth:` section of its settings (see testing/registryauth.py); `tls`: certificate and key.
    """
    program = shutil.which("docker-registry")
    if program is None:
        raise FileNotFoundError("docker-registry is not installed")
    port = free_port()
    settings = root / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {json.dumps(str(root / 'registry'))}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: '127.0.0.1:{port}'\n"
        + (f"  tls: {{certificate: {json.dumps(str(tls[0]))}, key: {json.dumps(str(tls[1]))}}}\n" if tls else "")
        + auth
    )
    with (root / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)


def push_blob(host: str, repository: str, data: bytes) -> str:
    """Upload with two plain HTTP calls; returns the digest."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    location = _call("POST", f"http://{host}/v2/{repository}/blobs/uploads/", b"")["Location"]
    if location.startswith("/"):
        location = f"http://{host}{location}"
    location += ("&" if "?" in location else "?") + f"digest={digest}"
    _call("PUT", location, data, "application/octet-stream")
    return digest


def push_manifest(host: str, repository: str, reference: str, data: bytes, media_type: str) -> str:
    _call("PUT", f"http://{host}/v2/{repository}/manifests/{reference}", data, media_type)
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _call(method: str, url: str, data: bytes, media_type: str = "") -> dict[str, str]:
    """The answer's headers; raises urllib.error.HTTPError for anything but success."""
    headers = {"Content-Type": media_type} if media_type else {}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return dict(answer.headers.items())
