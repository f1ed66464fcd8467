from __future__ import annotations

import pytest

from lamina.layer.modes import InvalidMode, ModeRule


@pytest.mark.parametrize(
    ("text", "mode", "folder", "result"),
    [
        ("755", 0o600, False, 0o755),
        ("0644", 0o4755, False, 0o644),
        ("4755", 0o600, False, 0o4755),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o666, False, 0o444),
        ("go-rwx", 0o777, False, 0o700),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, True, 0o755),
        ("u=rwX,go=rX", 0o711, False, 0o755),
        ("X", 0o600, False, None),
        ("g=u", 0o640, False, 0o660),
        ("u+s", 0o755, False, 0o4755),
        ("g+s", 0o755, True, 0o2755),
        ("+t", 0o777, True, 0o1777),
        ("u+rw-x", 0o500, False, 0o600),
        ("=", 0o777, False, 0),
        ("8", 0, False, None),
        ("77777", 0, False, None),
        ("", 0, False, None),
        ("u+q", 0, False, None),
        ("u+x,", 0, False, None),
    ],
)
def test_apply(text: str, mode: int, folder: bool, result: int | None) -> None:
    if result is None:
        with pytest.raises(InvalidMode):
            ModeRule(text)
    else:
        assert ModeRule(text).apply(mode, folder) == result
