"""The command line run in this process: a store of its own, the rung `none` (nothing is entered, no RUN is executed)."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.testing.commandline import Lamina, in_process
from lamina.testing.images import tar_of


@pytest.fixture
def lamina(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lamina:
    return in_process(tmp_path, monkeypatch, capfd)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A context with a Dockerfile of two stages that needs no RUN; it is the working directory."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "a").write_text("one\n")
    (folder / "b").write_text("two\n")
    (folder / "Dockerfile").write_text(
        "FROM scratch AS parts\nCOPY a /a\nLABEL x=y\nCOPY b /b\n\nFROM scratch\nCOPY --from=parts /a /copied\nWORKDIR /work\n"
    )
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def built(lamina: Lamina, app: Path) -> Path:
    said = lamina("build", "-q", "-t", "app:1", ".")
    assert said.code == 0, said.err
    return app


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(tar_of({"etc": None, "etc/name": b"x\n"}))
    return path
