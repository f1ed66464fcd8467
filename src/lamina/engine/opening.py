"""An engine over a store: user namespace, flavour, store, sandbox, in this order and each as late as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.engine.engine import Engine
from lamina.sandbox import rungs
from lamina.sandbox.protocols import Sandbox, SandboxUnavailable
from lamina.store.local import LocalStore

if TYPE_CHECKING:
    from lamina.cache.remote.shared import SharedCache
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
    limits: str | None = None,
) -> Iterator[Engine]:
    """`uid` is the effective one. As an ordinary user the process enters a user namespace (no thread may exist yet). Closes what it opened.

    `insecure_registries`: hosts (with port) that may be spoken to without TLS. `registry_environment`: the environment by which
    logins and registries.toml are found; without it everything is anonymous. `on_rescue` allows a store whose database is damaged to begin
    a new one, and is called with the names of the images that were kept; no other process may be using the store then.
    `limits`: what each RUN may use, "memory=512m,cpus=1.5,pids=200"; BadLimit.

    Raises SandboxUnavailable for a forced rung that does not work here, StoreErrors.
    """
    held = None
    if limits:
        from lamina.sandbox import limits as limiting

        held = limiting.parse(limits)
    chosen, tried = choose(rung, uid, root)
    made: list[Sandbox] = []
    own: list[RegistryClient] = []
    clients: list[RegistryClient] = []  # of shared caches: a build waits less for these

    def sandbox() -> Sandbox:
        if not made:
            made.append(rungs.make(chosen, tried, store.scratch() / "roots", held))
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

    flavour = rungs.flavour_of(chosen)
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


def choose(rung: str | None, uid: int, root: Path | None = None) -> tuple[str, tuple[str, ...]]:
    """(rung, what was tried in vain). Root stays root; who may not mount enters a namespace with a range of ids, else with his own; where
    that is refused chroot or proot is taken, which both warn. `root`: where the store will lie.

    SandboxUnavailable for a forced rung that is not there: nothing else is taken instead.
    """
    rungs.check_name(rung)
    if rung is not None:
        _force(rung)
        return rung, ()
    tried: list[str] = []
    if uid == 0:
        why = rungs.why_not("root")
        if why is None and root is not None and rungs.on_overlay(root):
            why = f"{root} lies on a container's own disk, where no overlay can be made (a volume would do)"
        if why is None:
            return "root", ()
        tried.append(f"root: {why}")
    if root is None or not rungs.on_overlay(root):
        from lamina.sandbox import userns  # ctypes: not for root

        kind, refused = userns.enter_best()
        if kind is not None:
            return "userns" if kind == "range" else "userns-single", (*tried, *refused)
        tried += refused
    else:
        tried.append(f"user namespace: {root} lies on a container's own disk, where no overlay can be made (a volume would do)")
    for weak in rungs.WEAK:
        why = rungs.why_not(weak)
        if why is None:
            return weak, tuple(tried)
        tried.append(f"{weak}: {why}")
    return "none", tuple(tried)


def _force(rung: str) -> None:
    """Enter what has to be entered; SandboxUnavailable."""
    why = rungs.why_not(rung)
    if why is None and rung.startswith("userns"):
        from lamina.sandbox import userns

        try:
            userns.enter("single" if rung == "userns-single" else "range")
        except OSError as error:
            why = f"user namespace: {error.strerror}"
    if why is not None:
        raise SandboxUnavailable(f"the sandbox {rung} cannot be used here: {why}", hint="lamina doctor tells what works on this machine")
