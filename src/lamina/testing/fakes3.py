"""A small S3 server on loopback for tests: objects, conditions, listing in pages, uploads in parts, deletion of many. Signatures are not checked."""

from __future__ import annotations

import hashlib
import threading
import xml.etree.ElementTree as Tree
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import gmtime, strftime, time
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class FakeS3:
    """Serves on 127.0.0.1 inside `with`; `endpoint` is for clients with path-style addresses. `page`: keys in one page of a list."""

    page: int = 1000
    conditions: bool = True  # False: answers If-None-Match with 501, as old servers do
    refuse: int = 0  # this status for everything
    refuse_next: int = 0  # how many of the next requests get 503
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)  # "bucket/key" -> (bytes, modified)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fake = self

        class Handler(_Handler):
            owner = fake

        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeS3:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FakeS3
    disable_nagle_algorithm = True  # head and body are two writes: without it the second waits for an acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        query, key = self._begin()
        if query is None:
            return
        if "list-type" in query:
            self._list(key.strip("/"), query)
            return
        found = self.owner.objects.get(key)
        if found is None:
            self._error(404, "NoSuchKey")
            return
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and not wanted.startswith("bytes=-"):
            first, _, last = wanted[6:].partition("-")
            data = found[0][int(first) : int(last) + 1 if last else None]
            headers = {"Content-Range": f"bytes {first}-{int(first) + len(data) - 1}/{len(found[0])}", **self._about(found)}
            self._answer(206, data, headers)
            return
        self._answer(200, found[0], self._about(found))

    def do_HEAD(self) -> None:
        query, key = self._begin()
        if query is None:
            return
        found = self.owner.objects.get(key)
        if found is None:
            self._answer(404)
        else:
            self._answer(200, found[0], self._about(found))

    def do_PUT(self) -> None:
        query, key = self._begin()
        if query is None:
            return
        data = self._body()
        if "uploadId" in query:
            self.owner.uploads[query["uploadId"]][int(query["partNumber"])] = data
            self._answer(200, b"", {"ETag": _etag(data)})
            return
        condition = self.headers.get("If-None-Match", "")
        if condition and not self.owner.conditions:
            self._error(501, "NotImplemented")
            return
        with self.owner.lock:
            if condition == "*" and key in self.owner.objects:
                self._error(412, "PreconditionFailed")
                return
            self.owner.objects[key] = (data, time())
        self._answer(200, b"", {"ETag": _etag(data)})

    def do_POST(self) -> None:
        query, key = self._begin()
        if query is None:
            return
        data = self._body()
        if "uploads" in query:
            with self.owner.lock:
                upload = f"u{len(self.owner.uploads)}"
                self.owner.uploads[upload] = {}
            self._xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        elif "uploadId" in query:
            parts = self.owner.uploads.pop(query["uploadId"])
            whole = b"".join(parts[number] for number in sorted(parts))
            self.owner.objects[key] = (whole, time())
            self._xml(f"<CompleteMultipartUploadResult><ETag>{_etag(whole)}</ETag></CompleteMultipartUploadResult>")
        else:
            bucket = key.strip("/")
            keys = [each.text or "" for each in Tree.fromstring(data).iter() if each.tag.rpartition("}")[2] == "Key"]
            for each in keys:
                self.owner.objects.pop(f"{bucket}/{each}", None)
            self._xml("<DeleteResult>" + "".join(f"<Deleted><Key>{escape(each)}</Key></Deleted>" for each in keys) + "</DeleteResult>")

    def do_DELETE(self) -> None:
        query, key = self._begin()
        if query is None:
            return
        if "uploadId" in query:
            self.owner.uploads.pop(query["uploadId"], None)
        else:
            self.owner.objects.pop(key, None)
        self._answer(204)

    def _begin(self) -> tuple[dict[str, str] | None, str]:
        """Query and "bucket/key"; no query when the answer has been given."""
        parts = urlsplit(self.path)
        self.owner.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.owner.refuse_next:
            self.owner.refuse_next -= 1
            self._body()
            self._error(503, "SlowDown")
            return None, ""
        if self.owner.refuse:
            self._body()
            self._error(self.owner.refuse, "AccessDenied")
            return None, ""
        query = {name: value[0] for name, value in parse_qs(parts.query, keep_blank_values=True).items()}
        return query, unquote(parts.path).lstrip("/")

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "") or query.get("start-after", "")
        with self.owner.lock:
            keys = sorted(key.removeprefix(f"{bucket}/") for key in self.owner.objects if key.startswith(f"{bucket}/{prefix}"))
        keys = [key for key in keys if key > after]
        page = keys[: min(self.owner.page, int(query.get("max-keys", 1000)))]
        more = len(page) < len(keys)
        contents = []
        for key in page:
            found = self.owner.objects.get(f"{bucket}/{key}")
            if found is not None:
                stamp = strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(found[1]))
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified><ETag>{_etag(found[0])}</ETag>"
                    f"<Size>{len(found[0])}</Size></Contents>"
                )
        following = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._xml(
            f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}{''.join(contents)}</ListBucketResult>"
        )

    def _about(self, found: tuple[bytes, float]) -> dict[str, str]:
        return {"ETag": _etag(found[0]), "Last-Modified": formatdate(found[1], usegmt=True)}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _xml(self, text: str) -> None:
        self._answer(200, b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            self.close_connection = True


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
