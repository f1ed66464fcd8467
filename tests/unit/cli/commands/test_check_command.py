"""`lamina check`: sound, damaged and mended, a database that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def damage(root: Path) -> None:
    for path in root.glob("state.db-*"):
        path.unlink()
    (root / "state.db").write_bytes(b"this is no database at all" * 500)


def test_a_sound_store(lamina: Lamina, built: Path) -> None:
    assert lamina("check", "--deep")[:2] == (0, "the store is sound\n")
    assert json.loads(lamina("check", "--json").out) == []


def test_damage_is_found_and_mended(lamina: Lamina, built: Path, tmp_path: Path) -> None:
    (tmp_path / "store/layers/stranger").mkdir()
    found = lamina("check")
    assert found.code == 1
    assert "check/foreign: layers/stranger" in found.out
    mended = lamina("check", "--repair")
    assert mended.code == 0
    assert "(mended)" in mended.out
    assert lamina("check").code == 0


def test_a_damaged_database_is_an_error_that_names_the_way_out(lamina: Lamina, built: Path, tmp_path: Path) -> None:
    damage(tmp_path / "store")
    said = lamina("check")
    assert said.code != 0
    assert "is damaged" in said.err
    assert "lamina check --repair" in said.err
    assert lamina("images").code == said.code


def test_repair_begins_a_new_database_and_keeps_the_images(lamina: Lamina, rootfs: Path, tmp_path: Path) -> None:
    assert lamina("import", str(rootfs), "base:1").code == 0
    damage(tmp_path / "store")
    said = lamina("check", "--repair")
    assert said.code == 0, said.out + said.err
    assert "check/database: the database was damaged; images kept: base:1 (mended)" in said.out
    assert "base" in lamina("images").out
    assert (tmp_path / "store/state.db.damaged").exists()
    assert lamina("check").code == 0


def test_repair_without_a_store_makes_one(lamina: Lamina) -> None:
    assert lamina("check", "--repair").code == 0


def test_a_mistake(lamina: Lamina) -> None:
    said = lamina("check", "--repiar")
    assert said.code == 2
    assert "--repair" in said.err
