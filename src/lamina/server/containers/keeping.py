"""Containers that outlive the engine (`lamina serve --keep`): begun so, left behind, taken over by the next engine. Their helpers: sandbox/kept.py."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec

from lamina.oci import typed
from lamina.sandbox import groups, kept
from lamina.sandbox.kept import Keep, Keeper, KeptProcess
from lamina.server.containers.container import Container
from lamina.server.containers.log import Log
from lamina.server.containers.stdin import Stdin
from lamina.server.errors import ApiError
from lamina.store import leases

if TYPE_CHECKING:
    from lamina.sandbox.containers import ProcessSpec
    from lamina.sandbox.protocols import SandboxSpec
    from lamina.server.daemon import Daemon


class Note(msgspec.Struct, frozen=True):
    """What the next engine finds of this one's. `lease`: of the store, held by the helper; `groups`: control groups made by an update."""

    lease: str = ""
    plugs: tuple[dict[str, str], ...] = ()
    groups: tuple[str, ...] = ()


def begin(
    daemon: Daemon, container: Container, spec: SandboxSpec, process: ProcessSpec, stdin: int, *, readonly: bool, resolv_conf: str
) -> KeptProcess:
    """Start it. Its layers stay as long as its helper lives, whoever collects. `stdin` stays the caller's."""
    layout = daemon.engine.store.layout
    container.lease, lease = leases.hand_over(layout, container.record.layers)
    held = daemon.wiring.held(container) | {"lease": lease}
    typed_to = container.stdin.other_end() if container.stdin is not None and not container.tty else -1
    if typed_to >= 0:
        held["stdin"] = typed_to
    keep = Keep(container.folder, *container.bounds)
    try:
        made = daemon.keeper.start_kept(spec, process, stdin, keep, held, _note(container), readonly=readonly, resolv_conf=resolv_conf)
    except BaseException:
        ended(daemon, container)
        raise
    finally:
        os.close(lease)
        if typed_to >= 0:
            os.close(typed_to)
    _listen(container, made)
    return made


def _listen(container: Container, process: KeptProcess) -> None:
    process.on_log, process.on_rotate = container.log.grown, container.log.filled
    if container.stdin is not None:
        container.stdin.on_close = process.close_stdin


def tell(container: Container) -> None:
    """What the next engine would not know otherwise has changed."""
    if isinstance(container.process, KeptProcess):
        container.process.note(_note(container))


def _note(container: Container) -> str:
    plugs = tuple(plug.document() for plug in container.plugs.values())
    return msgspec.json.encode(Note(container.lease, plugs, container.made_groups)).decode()


def ended(daemon: Daemon, container: Container) -> None:
    """The run is over, or was not begun."""
    kept.forget(container.folder)
    if container.lease:
        leases.forget(daemon.engine.store.layout, container.lease)
        container.lease = ""
        container.log.look_again()


def let_go(container: Container) -> None:
    """Before the engine ends; the container runs on."""
    if isinstance(container.process, KeptProcess):
        container.process.let_go()


def put_down(container: Container) -> None:
    """After `let_go`, and when nobody reads of it any more: what this engine had open for it."""
    with container.changed:
        process, container.process = container.process, None
        if process is not None and process.terminal is not None:
            os.close(process.terminal)
        if container.stdin is not None:
            container.stdin.on_close = lambda: None
            container.stdin.close()
            container.stdin.close_reader()
            container.stdin = None
        if container.network >= 0:
            os.close(container.network)
            container.network = -1
        container.ended = container.run
        container.log.close()
        container.notify()


def take_over(daemon: Daemon, container: Container, keeper: Keeper) -> bool:
    """Whether its helper let us in: it runs, and is ours from now on; `running.go_on` watches over it. Else it has ended."""
    try:
        process, hello, held = kept.take_over(container.folder, keeper)
    except kept.KeeperSilent:
        kept.end(container.folder, keeper)
        return False
    note = _read(hello.note)
    container.log = Log(container.folder / "log", *container.bounds)  # no file comes or goes without us from now on
    container.log.grown(*hello.log)
    container.process, container.run, container.lease, container.made_groups = process, 1, note.lease, note.groups
    state = container.state
    if state.status not in ("running", "paused"):
        state.status, state.started, state.finished, state.error, state.exit_code = "running", hello.began, None, "", 0
        state.oom = False
    if container.tty:
        container.stdin = Stdin() if container.record.config["OpenStdin"] else None
    elif "stdin" in held:
        container.stdin = Stdin(held.pop("stdin"))
    _listen(container, process)
    process.keep(daemon.keep)
    daemon.wiring.take_over(container, note.plugs, held)
    with contextlib.suppress(ApiError):  # it ends then, as when it starts
        daemon.ports.open(container, held)
    for number in held.values():
        os.close(number)
    tell(container)
    container.save()
    return True


def ended_meanwhile(daemon: Daemon, container: Container) -> bool:
    """Whether it ended while no engine looked; then its record says so. What was killed with its helper, or with its engine: 137."""
    left = kept.how_it_ended(container.folder)
    if left is None and not container.running:
        return False
    state = container.state
    state.status, state.exit_code, state.finished, state.error = "exited", 137, daemon.now(), "the engine was stopped"
    container.log.mend()
    if left is not None:
        groups.remove(_read(left.note).groups)
        state.exit_code, state.finished, state.error, state.oom = left.exit_code, left.finished, "", left.oom
        if state.started is None or state.started < left.began:
            state.started = left.began
    container.save()
    kept.forget(container.folder)
    return True


def _read(text: str) -> Note:
    try:
        return typed.json(text, type=Note)
    except msgspec.MsgspecError:
        return Note()  # of an engine that was killed while it began
