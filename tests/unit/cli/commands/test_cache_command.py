"""`lamina cache`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_ls(lamina: Lamina, built: Path) -> None:
    said = lamina("cache", "ls")
    assert "parts:2" in said.out
    assert "COPY b /b" in said.out
    assert len(json.loads(lamina("cache", "ls", "--json").out)) == 4
    assert "sha256:" not in said.out


def test_du_says_what_its_columns_mean(lamina: Lamina, built: Path) -> None:
    said = lamina("cache", "du")
    assert said.out.splitlines()[0].split() == ["KIND", "NAME", "SIZE", "SHARED", "RECLAIMABLE"]
    assert "image " in said.out
    assert "SHARED: several images hold it" in said.out.splitlines()[-1]
    assert {line["kind"] for line in json.loads(lamina("cache", "du", "--json").out)} >= {"image", "layers", "blobs", "cache-mounts"}


def test_forget(lamina: Lamina, built: Path) -> None:
    assert lamina("cache", "forget", "parts:2").out == "1 record forgotten\n"
    assert "forgotten" in lamina("plan", ".").out
    assert lamina("cache", "forget", "--all").out == "3 records forgotten\n"


def test_forget_mistakes(lamina: Lamina, built: Path) -> None:
    assert lamina("cache", "forget").code == 2
    said = lamina("cache", "forget", "prats")
    assert said.code == 2
    assert "did you mean 'parts'?" in said.err


def test_prune(lamina: Lamina, built: Path, tmp_path: Path) -> None:
    place = tmp_path / "store/cachemounts" / ("a" * 32) / "0"
    (place / "data").mkdir(parents=True)
    (place / "data/f").write_bytes(b"x" * 100)
    (place / "id").write_text("/root/.npm")
    said = lamina("cache", "prune", "--all", "--dry-run", "--explain")
    assert "would free" in said.out
    assert "remove cache mount /root/.npm" in said.out
    assert "used by image" in said.out
    assert place.exists()
    assert (tmp_path / "store/ballast").exists(), "the room for pruning a full disk is not given up by looking"
    said = lamina("cache", "prune", "--all")
    assert said.out.startswith("freed")
    assert "1 cache mounts" in said.out
    assert not place.exists()
    assert (tmp_path / "store/ballast").exists()
    assert lamina("images", "-q").out, "what an image holds stays"
    assert lamina("check").code == 0


def test_prune_mistakes(lamina: Lamina) -> None:
    assert "not a size" in lamina("cache", "prune", "--keep", "much").err
    assert "not a duration" in lamina("cache", "prune", "--older-than", "long").err
    assert lamina("cache", "prun").code == 2
