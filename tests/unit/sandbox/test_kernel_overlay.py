"""The kernel's limit of layers is named before any system call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import lamina.sandbox


def test_more_layers_than_overlayfs_takes(tmp_path: Path) -> None:
    found = importlib.util.spec_from_file_location("standalone_kernel", Path(lamina.sandbox.__file__).parent / "standalone/kernel.py")
    assert found is not None
    assert found.loader is not None
    kernel = importlib.util.module_from_spec(found)
    found.loader.exec_module(kernel)
    with pytest.raises(OSError, match=r"500 layers lie below this step, the kernel takes 499: join steps"):
        kernel.overlay(str(tmp_path / "t"), [str(tmp_path)] * 501, str(tmp_path / "u"), str(tmp_path / "w"), False)
