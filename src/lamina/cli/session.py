"""Opening what commands work on: the user namespace, the store, the engine. All of it as late as possible."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.engine.engine import Engine


@contextmanager
def open_engine(settings: Settings, *, making_room: bool = False) -> Iterator[Engine]:
    """An engine over the store; as an ordinary user the process has entered a user namespace first. Must run before any thread is made."""
    from lamina.engine.opening import open_engine as open_on

    with open_on(
        settings.root,
        rung=settings.rung,
        clock=time.time,
        host=socket.gethostname(),
        proxies=settings.proxies,
        uid=os.geteuid(),
        making_room=making_room,
    ) as engine:
        yield engine
