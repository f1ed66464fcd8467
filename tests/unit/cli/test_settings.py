"""What the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.cli.inputs import BadOption
from lamina.cli.settings import Settings


def settings(root: Path | None = None, /, **environment: str) -> Settings:
    return Settings.from_environment(environment, root=root, rung=None, debug=False)


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"XDG_DATA_HOME": "/data", "HOME": "/h"}, "/data/lamina"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/lamina"),
        ({"HOME": "/h"}, "/h/.local/share/lamina"),
        ({}, "/root/.local/share/lamina"),
    ],
)
def test_the_store(environment: dict[str, str], root: str) -> None:
    assert settings(**environment).root == Path(root)
    assert settings(Path("/given"), **environment).root == Path("/given")


def test_a_relative_root_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(Path("x")).root == tmp_path / "x"


@pytest.mark.parametrize(("text", "on"), [("on", True), ("OFF", False), ("0", False), ("1", True), ("", True)])
def test_cut_off(text: str, on: bool) -> None:
    assert settings(LAMINA_CUT_OFF=text).cut_off is on


def test_a_misspelt_switch_is_refused() -> None:
    with pytest.raises(BadOption, match="must be on or off"):
        settings(LAMINA_CUT_OFF="flase")


def test_proxies_and_colour() -> None:
    found = settings(HTTP_PROXY="p", no_proxy="n", OTHER="o", NO_COLOR="1")
    assert found.proxies == {"HTTP_PROXY": "p", "no_proxy": "n"}
    assert found.no_colour
    assert not settings(NO_COLOR="").no_colour, "an empty NO_COLOR counts as none (no-color.org)"
