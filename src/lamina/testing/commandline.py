"""The command line run in this process: a store of its own, the rung `none` (nothing is entered, no RUN is executed)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lamina.cli.main import run

if TYPE_CHECKING:
    import pytest

_OTHERS = (
    "LAMINA_CUT_OFF",
    "LAMINA_DEBUG",
    "NO_COLOR",
    "SSH_AUTH_SOCK",
    "LAMINA_REGISTRY_CA",
    "LAMINA_INSECURE_REGISTRY",
    "REGISTRY_AUTH_FILE",
    "LAMINA_REGISTRIES",
    "XDG_RUNTIME_DIR",
)


class Said(NamedTuple):
    code: int
    out: str
    err: str


Lamina = Callable[..., Said]


def in_process(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lamina:
    """`lamina("images", "-q", stdin=b"")` -> Said(code, out, err). Store, logins and settings lie below `folder`."""
    monkeypatch.setenv("LAMINA_ROOT", str(folder / "store"))
    monkeypatch.setenv("LAMINA_SANDBOX", "none")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder / "docker"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    for name in _OTHERS:
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
