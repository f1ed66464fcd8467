"""The command line run in this process: a store of its own, the rung `none` (nothing is entered, no RUN is executed)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from lamina.cli.main import run
from lamina.testing.images import tar_of


class Said(NamedTuple):
    code: int
    out: str
    err: str


Lamina = Callable[..., Said]


@pytest.fixture
def lamina(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lamina:
    """`lamina("images", "-q", stdin=b"")` -> Said(code, out, err)."""
    monkeypatch.setenv("LAMINA_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("LAMINA_SANDBOX", "none")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in (
        "LAMINA_CUT_OFF",
        "LAMINA_DEBUG",
        "NO_COLOR",
        "SSH_AUTH_SOCK",
        "LAMINA_REGISTRY_CA",
        "LAMINA_INSECURE_REGISTRY",
        "REGISTRY_AUTH_FILE",
        "LAMINA_REGISTRIES",
        "XDG_RUNTIME_DIR",
    ):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, stdin: bytes | None = None) -> Said:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        code = run(list(arguments))
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call


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
