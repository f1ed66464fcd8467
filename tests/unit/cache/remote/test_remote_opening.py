from __future__ import annotations

from pathlib import Path

import pytest

from lamina.cache.remote.errors import BadCacheSpec
from lamina.cache.remote.opening import CacheSpec, open_cache, parse_spec
from lamina.registry.client import RegistryClient
from lamina.registry.transport import Transport


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("dir:/a/b", CacheSpec("dir", "/a/b", {})),
        ("dir:a,b,scope=pr/17", CacheSpec("dir", "a,b", {"scope": "pr/17"})),
        ("s3://ci/cache,scope=main,required=true", CacheSpec("s3", "ci/cache", {"scope": "main", "required": "true"})),
        ("oci://registry.example:5000/team/cache", CacheSpec("oci", "registry.example:5000/team/cache", {})),
        ("https://cache.example/x,token-env=T", CacheSpec("https", "cache.example/x", {"token-env": "T"})),
    ],
)
def test_specs(text: str, spec: CacheSpec) -> None:
    assert parse_spec(text) == spec
    assert parse_spec(text).required == ("required=true" in text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dir:",
        "oci://",
        "ftp://x/y",
        "debian:12",
        "dir:/a,colour=red",
        "dir:/a,required=maybe",
        "dir:/a,scope=",
        "http://me:secret@host/",
    ],
)
def test_specs_that_are_none(text: str) -> None:
    with pytest.raises(BadCacheSpec) as caught:
        parse_spec(text)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


def test_what_is_opened(tmp_path: Path) -> None:
    def client() -> RegistryClient:
        return RegistryClient(Transport())

    (tmp_path / "token").write_text("t\n")
    for text, where in (
        (f"dir:{tmp_path}", f"dir:{tmp_path}"),
        ("oci://registry.example/team/cache", "oci://registry.example/team/cache"),
        (f"https://cache.example:8443/x/,token-file={tmp_path / 'token'}", "https://cache.example:8443/x"),
    ):
        cache = open_cache(f"{text},scope=pr/17,project=app", now=lambda: 1.0, environment={}, client=client)
        assert (cache.where, cache.trust.scope, cache.project, cache.required) == (where, "pr/17", "app", False)
        cache.close()


@pytest.mark.parametrize(
    "text",
    [
        "oci://registry.example/team/cache:tag",
        "https://x/,token-env=NOT_SET",
        "https://x/,token-file=/nowhere",
        "dir:/x,key=/nowhere",
        "dir:/x,policy=/no",
    ],
)
def test_what_cannot_be_opened(text: str) -> None:
    with pytest.raises(BadCacheSpec):
        open_cache(text, now=lambda: 1.0, environment={}, client=lambda: RegistryClient(Transport()))
