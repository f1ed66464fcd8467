"""What an engine is opened with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.cli.session import open_engine
from lamina.cli.settings import Settings
from lamina.diagnostics.errors import LaminaError


def settings(root: Path, rung: str | None = "none") -> Settings:
    return Settings.from_environment({"HOME": str(root)}, root=root / "store", rung=rung, debug=False)


def test_a_store_is_made_and_closed(tmp_path: Path) -> None:
    with open_engine(settings(tmp_path)) as engine:
        assert engine.store.layout.root == tmp_path / "store"
        assert len(list((tmp_path / "store/leases").iterdir())) == 1
    assert list((tmp_path / "store/leases").iterdir()) == []


def test_making_room_gives_up_the_ballast(tmp_path: Path) -> None:
    with open_engine(settings(tmp_path)):
        pass
    assert (tmp_path / "store/ballast").exists()
    with open_engine(settings(tmp_path), making_room=True):
        assert not (tmp_path / "store/ballast").exists()


def test_a_rung_that_does_not_exist_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(LaminaError, match="no sandbox rung"), open_engine(settings(tmp_path, "nope")):
        pass
    assert not (tmp_path / "store").exists()
