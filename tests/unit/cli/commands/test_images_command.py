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


def test_a_name_and_filters(lamina: Lamina, built: Path) -> None:
    assert lamina("build", "-q", "--label", "team=web", "-t", "reg.example/team/web:2", "-t", "web:1", str(built)).code == 0

    def names(*words: str) -> list[str]:
        return sorted(lamina("images", "--format", "{{.Repository}}:{{.Tag}}", *words).out.split())

    assert names("app") == names("app:1") == names("docker.io/library/app") == ["app:1"]
    assert names("app:2") == names("nothing") == []
    assert names("reg.example/*/w?b") == ["reg.example/team/web:2"]
    assert names("*") == ["app:1", "web:1"], "as in docker a star stops at a slash"
    assert names("--filter", "label=team=web") == ["reg.example/team/web:2", "web:1"]
    assert names("--filter", "label=team=other") == names("--filter", "label=none") == []
    assert names("--filter", "label=team", "web") == ["web:1"]
    assert names("--filter", "dangling=true") == names("--filter", "until=1h") == []
    assert names("--filter", "dangling=false") == ["app:1", "reg.example/team/web:2", "web:1"]
    assert lamina("images", "--filter", "since=gone").code == 66
    assert "did you mean label=" in lamina("images", "--filter", "lable=x").err


def test_a_mistake(lamina: Lamina, built: Path) -> None:
    said = lamina("images", "--format", "{{.Repositry}}")
    assert said.code == 2
    assert "did you mean .Repository?" in said.err
