from __future__ import annotations

from pathlib import Path

import pytest

from lamina.registry.configuration import BadRegistrySettings, RegistrySettings, read_settings, settings_file


def test_where_it_stands() -> None:
    assert settings_file({"HOME": "/h"}) == Path("/h/.config/lamina/registries.toml")
    assert settings_file({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == Path("/c/lamina/registries.toml")
    assert settings_file({"HOME": "/h", "LAMINA_REGISTRIES": "/r.toml"}) == Path("/r.toml")


def test_everything(tmp_path: Path) -> None:
    file = tmp_path / "registries.toml"
    file.write_text('insecure = ["lan:5000"]\nforeign-layers = true\n[mirrors]\n"docker.io" = ["m.example/hub", "[::1]:5000"]\n')
    expected = RegistrySettings({"docker.io": ("m.example/hub", "[::1]:5000")}, ("lan:5000",), True)
    assert read_settings(file) == expected
    assert read_settings(tmp_path / "none") == RegistrySettings()


@pytest.mark.parametrize(
    "text",
    [
        "insecure = 7",
        "unknown = 1",
        "[",
        'insecure = ["https://x"]',
        '[mirrors]\n"docker.io" = ["https://m"]',
        '[mirrors]\n"a/b" = []',
        "\xff",
    ],
)
def test_mistakes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "registries.toml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(BadRegistrySettings, match=r"registries\.toml"):
        read_settings(file)
