"""An engine over a store: user namespace, flavour, store, sandbox, in this order and each as late as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.engine import Engine
from lamina.sandbox import rungs, userns
from lamina.sandbox.protocols import Sandbox
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.registry.transport import TransportSettings


@contextmanager
def open_engine(
    root: Path,
    *,
    rung: str | None,
    clock: Callable[[], float],
    host: str,
    proxies: Mapping[str, str],
    uid: int,
    making_room: bool = False,
) -> Iterator[Engine]:
    """`uid` is the effective one. As an ordinary user the process enters a user namespace (no thread may exist yet). Closes what it opened.

    Raises SandboxUnavailable for a forced rung that does not work here, StoreErrors.
    """
    chosen, tried = choose(rung, uid)
    made: list[Sandbox] = []

    def sandbox() -> Sandbox:
        if not made:
            made.append(rungs.make(chosen, tried))
        return made[0]

    def transport() -> TransportSettings:
        from lamina.registry.hosts import Proxies
        from lamina.registry.transport import TransportSettings

        return TransportSettings(proxies=Proxies.from_environment(proxies))

    store = LocalStore.open(root, rungs.flavour_of(chosen), now=clock, making_room=making_room)
    try:
        with store:
            yield Engine(store, sandbox, now=clock, host=host, transport=transport)
    finally:
        for item in made:
            item.close()


def choose(rung: str | None, uid: int) -> tuple[str, tuple[str, ...]]:
    """(rung, what was tried in vain). Root stays root; another user enters a namespace with a range of ids, else with his own."""
    rungs.check_name(rung)
    if rung is not None:
        if rung.startswith("userns"):
            userns.enter("single" if rung == "userns-single" else "range")
        return rung, ()
    if uid == 0:
        return "root", ()
    kind, tried = userns.enter_best()
    return {"range": "userns", "single": "userns-single"}.get(kind or "", "none"), tried
