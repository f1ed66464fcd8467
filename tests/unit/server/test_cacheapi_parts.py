"""What the cache server takes of chunks and of versions of cache mounts, and from whom."""

from __future__ import annotations

import hashlib

import pytest

from lamina.cache.remote.chunks import LARGEST, pack
from lamina.cache.remote.http import ROOT
from lamina.cache.remote.memory import MemoryObjects
from lamina.cache.remote.mounts import MountStatement, seal_mount
from lamina.oci.digest import sha256
from lamina.server.cacheapi import Access, CacheApi, CacheRequest, Token


def token(text: str, read: tuple[str, ...], write: tuple[str, ...]) -> Token:
    return Token(hashlib.sha256(text.encode()).hexdigest(), read, write)


class Server:
    def __init__(self) -> None:
        self.objects = MemoryObjects()
        access = Access({"ci": token("ci", ("*",), ("main",)), "pr": token("pr", ("pr/*",), ("pr/*",)), "look": token("look", ("*",), ())})
        self._api = CacheApi(self.objects, access)

    def ask(self, method: str, path: str, data: bytes = b"", who: str = "ci") -> tuple[int, bytes]:
        reply = self._api(CacheRequest(method, f"{ROOT}/{path}", {"prefix": "mounts/"}, f"Bearer {who}", len(data), lambda: iter((data,))))
        return reply.status, b"".join(reply.body)


@pytest.fixture
def server() -> Server:
    return Server()


def chunk(data: bytes) -> str:
    return f"objects/chunks/zstd/{hashlib.sha256(data).hexdigest()}"


def version(scope: str) -> tuple[str, bytes]:
    return seal_mount(MountStatement("go", scope, sha256(b"x"), 1.0, 1, 1, "0" * 64), lambda _: ())


def test_chunks_are_verified(server: Server) -> None:
    assert server.ask("PUT", chunk(b"x"), pack(b"x"))[0] == 201
    assert server.ask("PUT", chunk(b"x"), pack(b"x"))[0] == 412
    for data in (pack(b"z"), b"y", b"", pack(b"y")[:-1], pack(b"y") + b"more"):
        assert server.ask("PUT", chunk(b"y"), data)[0] == 400
    bomb = bytes(LARGEST + 1)
    assert server.ask("PUT", chunk(bomb), pack(bomb))[0] == 400
    assert server.ask("PUT", chunk(b"y"), bytes(LARGEST * 2))[0] == 413
    assert server.ask("PUT", chunk(b"y"), pack(b"y"), who="look")[0] == 403
    assert server.objects.exists([chunk(b"y").removeprefix("objects/")]) == set()


def test_versions_of_cache_mounts_have_scopes(server: Server) -> None:
    main, main_data = version("main")
    own, own_data = version("pr/7")
    assert server.ask("PUT", f"objects/{main}", main_data, who="pr")[0] == 403
    assert server.ask("PUT", f"objects/{main}", main_data + b" ")[0] == 400
    assert server.ask("PUT", f"objects/{main}", main_data)[0] == 201
    assert server.ask("PUT", f"objects/{own}", own_data, who="pr")[0] == 201
    prefix = main.rpartition("/main/")[0] + "/"
    gathered = server.ask("POST", "gather", b'{"prefixes":["%s"]}' % prefix.encode(), who="pr")[1]
    assert own.encode() in gathered
    assert main.encode() not in gathered, "a scope that the token may not read"
    listed = server.ask("GET", "list", who="pr")[1]
    assert own.encode() in listed
    assert main.encode() not in listed
    assert server.ask("GET", f"objects/{main}", who="pr")[0] == 404
    assert server.ask("POST", "delete", b'{"names":["%s"]}' % main.encode(), who="pr")[0] == 403
    assert server.ask("POST", "delete", b'{"names":["%s"]}' % own.encode(), who="pr")[0] == 200
    assert server.ask("POST", "gather", b'{"prefixes":["chunks/zstd/"]}')[0] == 400
