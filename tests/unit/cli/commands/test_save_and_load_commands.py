"""`lamina save`, `lamina load`, `lamina import`."""

from __future__ import annotations

import lzma
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lamina = Callable[..., Any]


def test_there_and_back(lamina: Lamina, built: Path, tmp_path: Path) -> None:
    archive = tmp_path / "app.tar"
    assert lamina("save", "-o", str(archive), "app:1").code == 0
    with tarfile.open(archive) as found:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(found.getnames())
    identifier = lamina("images", "-q", "--no-trunc").out
    said = lamina("--root", str(tmp_path / "other"), "load", "-i", str(archive))
    assert said.out == "Loaded image: app:1\n"
    assert lamina("--root", str(tmp_path / "other"), "images", "-q", "--no-trunc").out == identifier
    packed = tmp_path / "app.tar.xz"
    packed.write_bytes(lzma.compress(archive.read_bytes()))
    assert lamina("--root", str(tmp_path / "third"), "load", "-q", "-i", str(packed)) == (0, "", "")


def test_save_mistakes(lamina: Lamina, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none:1" in lamina("save", "-o", str(tmp_path / "x"), "none:1").err
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "terminal" in lamina("save", "app:1").err


def test_load_mistakes(lamina: Lamina, tmp_path: Path) -> None:
    assert "none.tar" in lamina("load", "-i", str(tmp_path / "none.tar")).err
    (tmp_path / "text").write_text("hello")
    said = lamina("load", "-i", str(tmp_path / "text"))
    assert said.code not in (0, 70)
    assert len(said.err.splitlines()) <= 2


def test_import(lamina: Lamina, rootfs: Path) -> None:
    said = lamina("import", "-c", 'CMD ["sh"]', "-m", "made by hand", str(rootfs), "base:1")
    assert said.out.startswith("sha256:")
    assert lamina("inspect", "-f", "{{json .Config.Cmd}}", "base:1").out == '["sh"]\n'
    assert "made by hand" in lamina("history", "base:1").out


def test_import_from_a_pipe(lamina: Lamina, rootfs: Path) -> None:
    assert lamina("import", "-", "base:1", stdin=rootfs.read_bytes()).code == 0


def test_import_mistakes(lamina: Lamina, rootfs: Path, tmp_path: Path) -> None:
    assert "cannot read" in lamina("import", str(tmp_path / "none"), "b:1").err
    assert lamina("import", "-c", "RUN x", str(rootfs), "b:1").code not in (0, 70)
    assert lamina("import", str(rootfs), "Bad Name").code not in (0, 70)
    assert lamina("images", "-a", "-q").out == ""
