"""A registry in memory that keeps the distribution specification strictly, for clients that write: blobs belong to repositories, uploads
have a place and an order, tokens have scopes. It counts what it is asked, and misbehaves on request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_BLOB = re.compile(r"/v2/(.+)/blobs/([a-z0-9]+:[0-9a-f]+)")
_UPLOADS = re.compile(r"/v2/(.+)/blobs/uploads/([^/]*)")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/(.+)")
_TAGS = re.compile(r"/v2/(.+)/tags/list")
_REFERRERS = re.compile(r"/v2/(.+)/referrers/(.+)")


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str  # with its query
    headers: dict[str, str]  # names in small letters

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Wrongs:
    """What the registry does wrong; lists are used up from the front."""

    answers: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)  # (method, status, headers): the next such request
    nth: tuple[int, int] | None = None  # (number, status): the answer to that request from now on, counted from 0
    cut_uploads: list[int] = field(default_factory=list)  # the next PATCH or PUT of a blob: read so many bytes and hang up
    cut_after: list[str] = field(default_factory=list)  # the next request of this method is carried out, its answer never sent
    lose_uploads: bool = False  # an upload that was cut is forgotten
    upload_host: str = ""  # Location of uploads names this address
    refuse_mounts: bool = False
    no_referrers: bool = False
    forget_tokens: int = 0  # so many times a good token is refused, as if it had expired
    tags_loop: bool = False
    fixed_tags: bool = False  # a tag stays where it is


class FakeRegistry:
    """Serves on 127.0.0.1 inside `with`. `users`: name -> password; then `auth` says how they prove it: "basic" or "token".

    `writers` may push (empty: every user). With tokens, strangers may pull.
    """

    def __init__(self, *, users: dict[str, str] | None = None, auth: str = "", identity_tokens: Iterable[str] = ()) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.asked: list[Asked] = []
        self.wrongs = Wrongs()
        self.users = users or {}
        self.auth = auth
        self.identity_tokens = set(identity_tokens)
        self.granted: dict[str, set[str]] = {}  # token -> "repository:name:action"
        self.lock = threading.RLock()
        registry = self

        class Handler(_Handler):
            owner = registry

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def count(self, method: str, contains: str = "") -> int:
        return sum(each.method == method and contains in each.path for each in self.asked)

    def put_blob(self, repository: str, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[repository, digest] = data
        return digest

    def __enter__(self) -> FakeRegistry:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections that wait to be taken

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeRegistry
    disable_nagle_algorithm = True  # head and body are two writes: without it the second waits for an acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        owner, wrongs = self.owner, self.owner.wrongs
        with owner.lock:
            owner.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            wrong = next((w for w in wrongs.answers if w[0] == self.command), None)
            if wrong:
                wrongs.answers.remove(wrong)
            if wrongs.nth is not None:
                left, status = wrongs.nth
                wrongs.nth = (left - 1, status) if left else None
                if not left:
                    wrong = (self.command, status, {})
        path = urlsplit(self.path).path
        if wrong:
            self._body()
            self._answer(wrong[1], b"", wrong[2])
        elif path == "/token":
            self._token()
        elif not self._allowed(path):
            self._body()
        elif path == "/v2/":
            self._answer(200, b"{}")
        elif found := _UPLOADS.fullmatch(path):
            self._upload(found[1], found[2])
        elif found := _BLOB.fullmatch(path):
            self._blob(found[1], found[2])
        elif found := _MANIFEST.fullmatch(path):
            self._manifest(found[1], found[2])
        elif found := _TAGS.fullmatch(path):
            self._tags(found[1])
        elif found := _REFERRERS.fullmatch(path):
            self._referrers(found[1], found[2])
        else:
            self._answer(404)

    # Who may do what

    def _allowed(self, path: str) -> bool:
        owner = self.owner
        if not owner.auth:
            return True
        given = self.headers.get("Authorization", "")
        if owner.auth == "basic":
            if self._user(given):
                return True
            self._refuse('Basic realm="fake"')
            return False
        needed = self._needed(path)
        with owner.lock:
            granted = owner.granted.get(given.removeprefix("Bearer "), None)
            good = granted is not None and needed <= granted
            if good and owner.wrongs.forget_tokens > 0:
                owner.wrongs.forget_tokens -= 1
                del owner.granted[given.removeprefix("Bearer ")]
                good = False
        if good:
            return True
        scope = " ".join(sorted(needed))
        self._refuse(f'Bearer realm="http://{owner.host}/token",service="fake"' + (f',scope="{scope}"' if scope else ""))
        return False

    def _needed(self, path: str) -> set[str]:
        found = re.match(r"/v2/(.+?)/(?:blobs|manifests|tags|referrers)/", path)
        if not found:
            return set()
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(self.command, "push")
        needed = {f"repository:{found[1]}:{action}"}
        origin = parse_qs(urlsplit(self.path).query).get("from")
        if origin:
            needed.add(f"repository:{origin[0]}:pull")
        return needed

    def _refuse(self, challenge: str) -> None:
        self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}', {"WWW-Authenticate": challenge})

    def _user(self, header: str) -> str:
        if not header.startswith("Basic "):
            return ""
        name, _, password = base64.b64decode(header[6:]).decode().partition(":")
        return name if self.owner.users.get(name) == password else ""

    def _token(self) -> None:
        owner = self.owner
        if self.command == "POST":
            form = parse_qs(self._body().decode())
            if form.get("refresh_token", [""])[0] not in owner.identity_tokens:
                self._answer(401)
                return
            scopes, writes = form.get("scope", [""])[0].split(), True
        else:
            header = self.headers.get("Authorization", "")
            user = self._user(header)
            if header and not user:
                self._answer(401)
                return
            query = parse_qs(urlsplit(self.path).query)
            scopes, writes = query.get("scope", []), bool(user)
            if not scopes and not user:
                self._answer(401)
                return
        granted = set()
        for scope in scopes:
            name, _, actions = scope.rpartition(":")
            granted |= {f"{name}:{action}" for action in actions.split(",") if writes or action == "pull"}
        with owner.lock:
            token = f"token{len(owner.granted)}x{len(owner.asked)}"
            owner.granted[token] = granted
        self._answer(200, json.dumps({"token": token, "expires_in": 60}).encode())

    # Blobs

    def _blob(self, repository: str, digest: str) -> None:
        owner = self.owner
        data = owner.blobs.get((repository, digest))
        if data is None:
            self._answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
        elif self.command == "DELETE":
            del owner.blobs[repository, digest]
            self._answer(202)
        else:
            self._answer(200, data, {"Docker-Content-Digest": digest})

    def _upload(self, repository: str, name: str) -> None:
        owner = self.owner
        query = {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
        if self.command == "POST":
            self._body()
            known = owner.blobs.get((query.get("from", ""), query.get("mount", "")))
            if known is not None and not owner.wrongs.refuse_mounts:
                owner.blobs[repository, query["mount"]] = known
                self._answer(201, b"", {"Location": f"/v2/{repository}/blobs/{query['mount']}"})
                return
            with owner.lock:
                name = f"u{len(owner.asked)}"
                owner.uploads[name] = bytearray()
            self._answer(202, b"", self._place(repository, name))
            return
        if name not in owner.uploads:
            self._body()
            self._answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
            return
        held = owner.uploads[name]
        if self.command == "GET":
            self._answer(204, b"", self._place(repository, name))
            return
        if self.command == "PATCH" and int(self.headers.get("Content-Range", "0-").split("-")[0]) != len(held):
            self._body()
            self._answer(416, b"", self._place(repository, name))
            return
        if not self._take(held):
            if owner.wrongs.lose_uploads:
                del owner.uploads[name]
            return
        if self.command == "PATCH":
            self._answer(202, b"", self._place(repository, name))
            return
        del owner.uploads[name]
        if "sha256:" + hashlib.sha256(held).hexdigest() != query.get("digest"):
            self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}')
            return
        owner.blobs[repository, query["digest"]] = bytes(held)
        self._answer(201, b"", {"Location": f"/v2/{repository}/blobs/{query['digest']}"})

    def _place(self, repository: str, name: str) -> dict[str, str]:
        held = self.owner.uploads[name]
        return {
            "Location": f"{self.owner.wrongs.upload_host}/v2/{repository}/blobs/uploads/{name}?state=x",
            "Range": f"0-{max(0, len(held) - 1)}",
        }

    def _take(self, held: bytearray) -> bool:
        """The body into `held`; False when the connection was to be cut meanwhile."""
        left = int(self.headers.get("Content-Length") or 0)
        cuts = self.owner.wrongs.cut_uploads
        keep = cuts.pop(0) if cuts and left else None
        stop = left if keep is None else min(left, keep)
        while stop:
            piece = self.rfile.read(min(stop, 1 << 16))
            if not piece:
                self.close_connection = True
                return False
            held += piece
            stop -= len(piece)
        if keep is not None:
            self.close_connection = True
            return False
        return True

    # What names blobs

    def _manifest(self, repository: str, reference: str) -> None:
        owner = self.owner
        digest = reference if ":" in reference else owner.tags.get(repository, {}).get(reference, "")
        if self.command == "PUT":
            self._put_manifest(repository, reference)
            return
        found = owner.manifests.get((repository, digest))
        if found is None:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        elif self.command == "DELETE":
            if ":" not in reference:
                self._answer(405)
                return
            del owner.manifests[repository, digest]
            owner.tags[repository] = {t: d for t, d in owner.tags.get(repository, {}).items() if d != digest}
            self._answer(202)
        else:
            self._answer(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": digest})

    def _put_manifest(self, repository: str, reference: str) -> None:
        owner, data = self.owner, self._body()
        document = json.loads(data)
        for named in [*document.get("layers", ()), *([document["config"]] if "config" in document else [])]:
            if (repository, named["digest"]) not in owner.blobs and "foreign" not in named["mediaType"]:
                self._answer(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
                return
        if owner.wrongs.fixed_tags and reference in owner.tags.get(repository, {}):
            self._answer(409, b'{"errors":[{"code":"TAG_IS_IMMUTABLE"}]}')
            return
        for named in document.get("manifests", ()):
            if (repository, named["digest"]) not in owner.manifests:
                self._answer(400, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
                return
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        owner.manifests[repository, digest] = (self.headers["Content-Type"], data)
        if ":" not in reference:
            owner.tags.setdefault(repository, {})[reference] = digest
        subject = (document.get("subject") or {}).get("digest", "")
        extra = {"OCI-Subject": subject} if subject and not owner.wrongs.no_referrers else {}
        self._answer(201, b"", {"Docker-Content-Digest": digest, **extra})

    def _tags(self, repository: str) -> None:
        query = {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
        names = sorted(t for t in self.owner.tags.get(repository, {}) if t > query.get("last", ""))
        page = names[: int(query.get("n", 1000))]
        headers = {}
        if self.owner.wrongs.tags_loop:
            headers = {"Link": f'<{self.path}>; rel="next"'}
        elif len(page) < len(names):
            headers = {"Link": f'</v2/{repository}/tags/list?n={query["n"]}&last={page[-1]}>; rel="next"'}
        self._answer(200, json.dumps({"name": repository, "tags": page}).encode(), headers)

    def _referrers(self, repository: str, subject: str) -> None:
        if self.owner.wrongs.no_referrers:
            self._answer(404)
            return
        found = []
        for (place, digest), (kind, data) in self.owner.manifests.items():
            document = json.loads(data)
            if place == repository and (document.get("subject") or {}).get("digest") == subject:
                found.append({"mediaType": kind, "digest": digest, "size": len(data), "artifactType": document.get("artifactType", "")})
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}).encode()
        self._answer(200, body, {"Content-Type": OCI_INDEX})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        cuts = self.owner.wrongs.cut_after
        if self.command in cuts:
            cuts.remove(self.command)
            self.close_connection = True
            return
        try:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            self.close_connection = True
