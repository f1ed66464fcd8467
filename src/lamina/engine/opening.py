"""An engine over a store: user namespace, flavour, store, sandbox, in this order and each as late as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.engine import Engine
from lamina.sandbox import rungs
from lamina.sandbox.protocols import Sandbox
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.registry.client import RegistryClient


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
    registry_ca: Path | None = None,
    insecure_registries: Sequence[str] = (),
    registry_environment: Mapping[str, str] | None = None,
    on_rescue: Callable[[tuple[str, ...]], None] | None = None,
) -> Iterator[Engine]:
    """`uid` is the effective one. As an ordinary user the process enters a user namespace (no thread may exist yet). Closes what it opened.

    `insecure_registries`: hosts (with port) that may be spoken to without TLS. `registry_environment`: the environment by which
    logins and registries.toml are found; without it everything is anonymous. `on_rescue` allows a store whose database is damaged to begin
    a new one, and is called with the names of the images that were kept; no other process may be using the store then.

    Raises SandboxUnavailable for a forced rung that does not work here, StoreErrors.
    """
    chosen, tried = choose(rung, uid)
    made: list[Sandbox] = []
    clients: list[RegistryClient] = []

    def sandbox() -> Sandbox:
        if not made:
            made.append(rungs.make(chosen, tried, store.scratch() / "roots"))
        return made[0]

    def registry() -> RegistryClient:
        if not clients:
            from lamina.engine.registries.access import client_for

            clients.append(client_for(registry_environment, proxies, registry_ca, insecure_registries))
        return clients[0]

    flavour = rungs.flavour_of(chosen)
    if on_rescue is not None and (root / "VERSION").exists():
        from lamina.store.rescue import rescue

        kept = rescue(root, flavour, now=clock)
        if kept is not None:
            on_rescue(kept)
    store = LocalStore.open(root, flavour, now=clock, making_room=making_room)
    try:
        with store:
            yield Engine(store, sandbox, now=clock, host=host, registry=registry)
    finally:
        for item in made:
            item.close()
        for client in clients:
            client.session.transport.close()


def choose(rung: str | None, uid: int) -> tuple[str, tuple[str, ...]]:
    """(rung, what was tried in vain). Root stays root; another user enters a namespace with a range of ids, else with his own."""
    rungs.check_name(rung)
    if rung is not None:
        if rung.startswith("userns"):
            from lamina.sandbox import userns

            userns.enter("single" if rung == "userns-single" else "range")
        return rung, ()
    if uid == 0:
        return "root", ()
    from lamina.sandbox import userns  # ctypes: not for root

    kind, tried = userns.enter_best()
    return {"range": "userns", "single": "userns-single"}.get(kind or "", "none"), tried
