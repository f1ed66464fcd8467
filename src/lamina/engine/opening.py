"""An engine over a store: user namespace, flavour, store, sandbox, in this order and each as late as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.engine import Engine
from lamina.sandbox import rungs
from lamina.sandbox.choice import Chosen, choose
from lamina.sandbox.protocols import Sandbox
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache
    from lamina.registry.client import RegistryClient
    from lamina.sandbox.zygoteprocess import ZygoteProcess


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
    limits: str | None = None,
    chosen: Chosen | None = None,
    process: ZygoteProcess | None = None,
) -> Iterator[Engine]:
    """`uid` is the effective one. As an ordinary user the process enters a user namespace (no thread may exist yet). Closes what it opened.

    `insecure_registries`: hosts (with port) that may be spoken to without TLS. `registry_environment`: the environment by which
    logins and registries.toml are found; without it everything is anonymous. `on_rescue` allows a store whose database is damaged to begin
    a new one, and is called with the names of the images that were kept; no other process may be using the store then.
    `limits`: what each RUN may use, "memory=512m,cpus=1.5,pids=200"; BadLimit. `chosen`: the rung is taken already, `rung` counts for
    nothing then. `process`: a zygote that the caller has started, and ends.

    Raises SandboxUnavailable for a forced rung that does not work here, StoreErrors.
    """
    held = None
    if limits:
        from lamina.sandbox import limits as limiting

        held = limiting.parse(limits)
    chosen = chosen or choose(rung, uid, root)
    made: list[Sandbox] = []
    own: list[RegistryClient] = []
    clients: list[RegistryClient] = []  # of shared caches: a build waits less for these

    def sandbox() -> Sandbox:
        if not made:
            made.append(rungs.make(chosen.rung, chosen.tried, store.scratch() / "roots", held, process))
        return made[0]

    def registry() -> RegistryClient:
        if not own:
            from lamina.engine.registries.access import client_for

            own.append(client_for(registry_environment, proxies, registry_ca, insecure_registries))
        return own[0]

    def shared_cache(spec: str) -> SharedCache:
        from lamina.engine.caches import open_cache

        def impatient(seconds: float) -> RegistryClient:
            from lamina.engine.registries.access import client_for

            clients.append(client_for(registry_environment, proxies, registry_ca, insecure_registries, seconds))
            return clients[-1]

        return open_cache(spec, now=clock, environment=registry_environment or {}, registry=impatient)

    flavour = rungs.flavour_of(chosen.rung)
    if on_rescue is not None and (root / "VERSION").exists():
        from lamina.store.rescue import rescue

        kept = rescue(root, flavour, now=clock)
        if kept is not None:
            on_rescue(kept)
    store = LocalStore.open(root, flavour, now=clock, making_room=making_room)
    try:
        with store:
            engine = Engine(store, sandbox, now=clock, host=host, registry=registry)
            engine.open_cache = shared_cache
            yield engine
    finally:
        for item in made:
            item.close()
        for client in (*own, *clients):
            client.session.transport.close()
