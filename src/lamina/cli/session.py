"""Opening what commands work on: the user namespace, the store, the engine. All of it as late as possible."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.cli.settings import Settings

if TYPE_CHECKING:
    from lamina.engine.engine import Engine


@contextmanager
def open_engine(
    settings: Settings,
    *,
    making_room: bool = False,
    registry_ca: Path | None = None,
    insecure_registries: Sequence[str] = (),
    on_rescue: Callable[[tuple[str, ...]], None] | None = None,
    running: bool = False,
    beside: Path | None = None,
) -> Iterator[Engine]:
    """An engine over the store; as an ordinary user the process has entered a user namespace first. Must run before any thread is made.

    `beside`: a folder of containers that may be kept from before; the process enters the user namespace that they are in.
    `running`: a RUN is likely, so the sandbox's process starts while the engine is being loaded. The others are those of engine/opening.py.
    """
    from lamina.sandbox.choice import choose

    chosen = choose(settings.rung, os.geteuid(), settings.root, beside)
    process = None
    if running and chosen.rung != "none":
        from lamina.sandbox.zygoteprocess import ZygoteProcess

        process = ZygoteProcess()
    try:
        from lamina.engine.opening import open_engine as open_on

        with open_on(
            settings.root,
            rung=settings.rung,
            clock=time.time,
            host=os.uname().nodename,
            proxies=settings.proxies,
            uid=os.geteuid(),
            making_room=making_room,
            registry_ca=registry_ca,
            insecure_registries=insecure_registries,
            registry_environment=settings.environment,
            on_rescue=on_rescue,
            limits=settings.limits,
            chosen=chosen,
            process=process,
        ) as engine:
            yield engine
    finally:
        if process is not None:
            process.end()
