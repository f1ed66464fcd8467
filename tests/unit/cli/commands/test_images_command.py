"""`lamina images`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lamina = Callable[..., Any]


def test_list(lamina: Lamina, built: Path) -> None:
    said = lamina("images")
    assert said.out.splitlines()[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert said.out.splitlines()[1].split()[:2] == ["app", "1"]
    whole = lamina("images", "-q", "--no-trunc").out.strip()
    assert whole.startswith("sha256:")
    assert whole[7:19] == lamina("images", "-q").out.strip()
    assert lamina("images", "--format", "{{.Repository}}:{{.Tag}}").out == "app:1\n"
    assert json.loads(lamina("images", "--json").out)[0]["Tag"] == "1"
    assert "DIGEST" in lamina("images", "--digests").out


def test_images_without_a_name_are_shown_on_demand(lamina: Lamina, app: Path) -> None:
    lamina("build", "-q", ".")
    assert len(lamina("images").out.splitlines()) == 1
    assert "<none>" in lamina("images", "-a").out


def test_a_mistake(lamina: Lamina, built: Path) -> None:
    said = lamina("images", "--format", "{{.Repositry}}")
    assert said.code == 2
    assert "did you mean .Repository?" in said.err
