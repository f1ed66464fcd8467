"""Fixtures of the fault tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.registry.transport import Transport
from lamina.testing.commandline import Lamina, in_process


@pytest.fixture
def lamina(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lamina:
    """The command line in this process; requests are repeated without waiting in between."""
    assert Transport.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Transport.__init__.__kwdefaults__, "sleep", lambda seconds: None)
    return in_process(tmp_path, monkeypatch, capfd)
