"""The client's ssh agents as sockets here, for the time of a build."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lamina.diagnostics.errors import LaminaError
from lamina.server.buildkit.messages import Bytes
from lamina.server.buildkit.sessions import FORWARD_AGENT, Session

_MOST = 32  # conversations with one agent at a time


@contextlib.contextmanager
def forwarded(session: Session, names: Iterable[str]) -> Iterator[Mapping[str, Path]]:
    """name -> socket, of those agents that the client has. Nothing is left of them after the block."""
    there = [name for name in names if session.has_agent(name)]
    if not there:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="lamina-agent-") as folder, contextlib.ExitStack() as stack:
        found = {}
        for number, name in enumerate(there):
            path = Path(folder, str(number))
            agent = _Agent(session, name, path)
            stack.callback(agent.close)
            found[name] = path
        yield found


class _Agent:
    def __init__(self, session: Session, name: str, path: Path) -> None:
        self._session = session
        self._name = name
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        os.chmod(path, 0o600)
        self._listener.listen(_MOST)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            open_now = list(self._open)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which closing does not
        self._listener.close()
        for each in open_now:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                full = self._closed or len(self._open) >= _MOST
                if not full:
                    self._open.add(one)
            if full:
                one.close()
            else:
                threading.Thread(target=self._talk, args=(one,), daemon=True).start()

    def _talk(self, one: socket.socket) -> None:
        try:
            call = self._session.stream(FORWARD_AGENT, [("buildkit.ssh.id", self._name)])
            try:
                threading.Thread(target=self._answers, args=(call, one), daemon=True).start()
                while data := one.recv(32 << 10):
                    call.send(Bytes(data))
                call.end()
            finally:
                call.close()
        except (OSError, LaminaError):
            pass  # whoever talks to the agent sees an end
        finally:
            with self._lock:
                self._open.discard(one)
            one.close()

    def _answers(self, call: object, one: socket.socket) -> None:
        from lamina.server.buildkit.grpc import ClientCall

        assert isinstance(call, ClientCall)
        try:
            while (found := call.receive(Bytes)) is not None:
                one.sendall(found.data)
        except (OSError, LaminaError):
            pass
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
