"""What holds for every test."""

from __future__ import annotations


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names of cases stay short: pytest puts them into the environment of what a test starts, and they are to be the same in each process."""
    if isinstance(val, (str, bytes)) and len(val) > 100:
        return ascii(val[:60]) + "..."
    return None
