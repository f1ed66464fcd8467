"""The kernel's limit of layers is named before any system call."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.testing import standalone


def test_more_layers_than_overlayfs_takes(tmp_path: Path) -> None:
    with (
        standalone.loaded("kernel") as kernel,
        pytest.raises(OSError, match=r"500 layers lie below this step, the kernel takes 499: join steps"),
    ):
        kernel.overlay(str(tmp_path / "t"), [str(tmp_path)] * 501, str(tmp_path / "u"), str(tmp_path / "w"), False)
