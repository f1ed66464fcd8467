"""The shared place as another machine opens it: secrets of files and variables go along, and stand in no address."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.cache.remote.errors import BadCacheSpec
from lamina.cli.clusterwork import travelling


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = travelling("dir:place,scope=pr/1", {})
    assert found.text == f"dir:{tmp_path}/place,scope=pr/1"
    assert found.environment == {}


def test_keys_and_tokens_travel_beside_the_address(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-word\n")
    (tmp_path / "token").write_text("token-word\n")
    found = travelling(f"https://cache.example,key=ci={tmp_path}/key,token-file={tmp_path}/token", {})
    assert found.text == "https://cache.example,key=ci=env:LAMINA_LENT_KEY,token-env=LAMINA_LENT_TOKEN"
    assert found.environment == {"LAMINA_LENT_KEY": "key-word", "LAMINA_LENT_TOKEN": "token-word"}
    again = travelling("https://cache.example,token-env=T", {"T": "token-word", "LAMINA_CACHE_KEY": "env:K", "K": "key-word"})
    assert again.text == "https://cache.example,token-env=LAMINA_LENT_TOKEN,key=env:LAMINA_LENT_KEY"
    assert again.environment == found.environment


def test_credentials_of_s3_travel_for_s3_only() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_PROFILE": "p", "OTHER": "o"}
    assert travelling("s3://bucket/x", environment).environment == {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert travelling("oci://registry/x", environment).environment == {}


@pytest.mark.parametrize(
    "text", ["dir:x,key=env:NO", "https://x,token-env=NO", "https://x,token-file=/no/such", f"dir:x,key={os.devnull}/x", "x"]
)
def test_what_cannot_be_read_is_said_here(text: str) -> None:
    with pytest.raises(BadCacheSpec):
        travelling(text, {})
