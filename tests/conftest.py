"""What holds for every test."""

from __future__ import annotations

import os
import signal


def pytest_configure() -> None:
    os.umask(0o022)  # modes of files that tests write are compared with what git and docker make
    _hear_interrupts()
    _same_examples()


def _hear_interrupts() -> None:
    """A shell starts what it puts into the background with Ctrl-C ignored, and what is started by that ignores it too: tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def _same_examples() -> None:
    """Properties are tried with the same examples each time, however long one takes on a busy machine. LAMINA_EXAMPLES=random looks for others."""
    from hypothesis import HealthCheck, settings

    wild = os.environ.get("LAMINA_EXAMPLES") == "random"
    settings.register_profile("lamina", deadline=None, derandomize=not wild, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("lamina")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names of cases stay short: pytest puts them into the environment of what a test starts, and they are to be the same in each process."""
    if isinstance(val, (str, bytes)) and len(val) > 100:
        return ascii(val[:60]) + "..."
    return None
