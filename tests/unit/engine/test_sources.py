"""Contexts, URLs and watched URLs of one build. Downloads themselves are tested with runners/http."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.engine.runners import git, http
from lamina.engine.sources import Contexts, Sources
from lamina.graph.ops import GitOp, HttpOp
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.digest import Digest
from lamina.store.local import LocalStore

FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
URL = "http://example.test/f"


def sha(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "store", FLAVOUR, now=lambda: 1000.0) as found:
        yield found


@pytest.fixture
def sources(store: LocalStore, tmp_path: Path) -> Sources:
    return Sources(store, tmp_path / "scratch")


class Web:
    """Stands for runners/http: what is there, and what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.body: bytes | None = b"bytes"
        self.tag = '"1"'
        self.fetched: list[str] = []
        self.probed: list[str] = []
        monkeypatch.setattr(http, "fetch", self.fetch)
        monkeypatch.setattr(http, "probe", self.probe)

    def fetch(self, url: str, path: Path, *, checksum: Digest | None, answers: http.Answers, have: bool) -> http.Fetched:
        self.fetched.append(url)
        if self.body is None:
            raise http.FetchFailed("no answer")
        known = answers.get(url)
        if have and known is not None and known.etag == self.tag:
            return http.Fetched(None, known.digest, "f", None, 0)
        path.write_bytes(self.body)
        answers.put(url, http.Answer(self.tag, "", sha(self.body)))
        return http.Fetched(path, sha(self.body), "f", 5.0, len(self.body))

    def probe(self, url: str) -> str:
        self.probed.append(url)
        if self.body is None:
            raise http.FetchFailed("no answer")
        return self.tag


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    return Web(monkeypatch)


def test_a_url_is_its_bytes_and_asked_once(sources: Sources, web: Web) -> None:
    op = HttpOp(URL, "f")
    one, two = sources.result(op), sources.result(op)
    assert (one.kind, one.label, one.id) == ("url", URL, sha(b"bytes"))
    assert two.id == one.id
    assert web.fetched == [URL]
    assert one.tree is not None
    with one.tree.open(b"f") as file:
        assert file.read() == b"bytes"


def test_with_a_checksum_nobody_is_asked_until_the_file_is_needed(sources: Sources, web: Web) -> None:
    found = sources.result(HttpOp(URL, "f", sha(b"bytes")))
    assert found.id == sha(b"bytes")
    assert web.fetched == []
    sources.load(found)
    assert web.fetched == [URL]


def test_an_answer_that_still_holds_is_read_from_the_store(store: LocalStore, tmp_path: Path, web: Web) -> None:
    Sources(store, tmp_path / "one").result(HttpOp(URL, "f"))
    found = Sources(store, tmp_path / "two").result(HttpOp(URL, "f"))
    assert found.id == sha(b"bytes")
    path = tmp_path / "two/source1/f"
    assert path.read_bytes() == b"bytes"
    assert path.stat().st_mode & 0o7777 == 0o600, "BuildKit's mode of a download"


def test_watched_urls(sources: Sources, store: LocalStore, tmp_path: Path, web: Web) -> None:
    said: list[tuple[str, str]] = []

    def warn(text: str, code: str) -> None:
        said.append((text, code))

    assert sources.watch(URL, warn) == '"1"'
    assert sources.watch(URL, warn) == '"1"'
    assert web.probed == [URL]
    web.body = None
    later = Sources(store, tmp_path / "later")
    assert later.watch(URL, warn) == '"1"', "offline: the old answer"
    assert [code for _, code in said] == ["watch-offline"]
    with pytest.raises(http.FetchFailed):
        later.watch("http://example.test/never-seen", warn)


def test_a_git_source_is_its_commit(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(url: git.GitUrl, *, ssh: Path | None) -> str:
        asked.append(url.remote)
        return "c" * 40

    monkeypatch.setattr(git, "resolve", resolve)
    monkeypatch.setattr(git, "checkout", lambda *_, **__: pytest.fail("fetched"))
    ids = [
        sources.result(op).id
        for op in (GitOp("u", "main"), GitOp("u", "main"), GitOp("u", "v1", keep_git_dir=True), GitOp("u", subdir="d"))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3, "the kept .git names the ref; a folder of it is other files"
    assert len(asked) == 3


def test_contexts(store: LocalStore, tmp_path: Path) -> None:
    for name in ("main", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keep").write_text(name)
        (tmp_path / name / "drop").write_text(name)
    (tmp_path / "other/.dockerignore").write_text("keep\n")
    contexts = Contexts(store, {"context": tmp_path / "main", "other": tmp_path / "other"}, "drop\n", exact_modes=False)
    main, other = contexts.files("context"), contexts.files("other")
    assert (main.kind, main.label, other.label) == ("context", "build context", "context other")
    assert contexts.files("context").tree is main.tree
    assert main.tree is not None
    assert other.tree is not None
    assert main.tree.children(b"") == [b"keep"], "the main context's rules are given, not read"
    assert b"drop" in other.tree.children(b"")
    assert b"keep" not in other.tree.children(b"")
    main.tree.content(b"keep")
    contexts.save()
    assert len(list(store.layout.context.iterdir())) >= 1


def test_a_signed_address_is_not_written_down(store: LocalStore, sources: Sources, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Web(monkeypatch)
    url = "http://user:word@example.test/f?signature=hidden"
    sources.result(HttpOp(url, "f"))
    assert store.facts.http(url) is None
    data = b"".join(path.read_bytes() for path in (tmp_path / "store").glob("state.db*"))
    assert b"hidden" not in data
    assert b"user:word" not in data
