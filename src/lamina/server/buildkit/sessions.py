"""Clients' sessions: a connection on which the client answers us. It reads its files, secrets, logins and agent when a build asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lamina.server.buildkit import messages as m
from lamina.server.buildkit.wire import Message
from lamina.server.errors import ApiError, Conflict

if TYPE_CHECKING:
    from lamina.server.buildkit.grpc import ClientCall
    from lamina.server.buildkit.http2 import Carrier, Http2

M = TypeVar("M", bound=Message)

FILE_SYNC = "/moby.filesync.v1.FileSync/DiffCopy"
UPLOAD = "/moby.upload.v1.Upload/Pull"
FILE_SEND = "/moby.filesync.v1.FileSend/DiffCopy"
_PATIENCE = 20.0  # seconds
_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
_CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
_CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"


class Session:
    """`key` names the client's context folder across builds; `methods` are what it answers. Any thread."""

    def __init__(self, name: str, key: str, methods: Iterable[str], connection: Http2) -> None:
        self.name = name
        self.key = key
        self._methods = frozenset(method.lower() for method in methods)
        self._connection = connection

    def has(self, method: str) -> bool:
        return method.lower() in self._methods

    def stream(self, method: str, metadata: Sequence[tuple[str, str]] = ()) -> ClientCall:
        """RpcError when the client has left."""
        from lamina.server.buildkit.grpc import ClientCall

        return ClientCall(self._connection, method, metadata)

    def on_close(self, act: Callable[[], None]) -> None:
        self._connection.on_close(act)

    def secret(self, name: str) -> bytes | None:
        """None when the client does not have it. RpcError."""
        return None if (found := self._asked(_SECRET, m.GetSecretRequest(name), m.GetSecretResponse)) is None else found.data

    def credentials(self, host: str) -> tuple[str, str] | None:
        """(user, password) for a registry; ("", token) for an identity token; None for nothing."""
        found = self._asked(_CREDENTIALS, m.CredentialsRequest(host), m.CredentialsResponse)
        return (found.username, found.secret) if found is not None and (found.username or found.secret) else None

    def has_agent(self, name: str) -> bool:
        return self._asked(_CHECK_AGENT, m.CheckAgentRequest(name), m.Nothing) is not None

    def _asked(self, method: str, request: Message, kind: type[M]) -> M | None:
        from lamina.server.buildkit.grpc import UNAVAILABLE, RpcError, call

        if not self.has(method):
            return None
        try:
            return call(self._connection, method, request, kind)
        except RpcError as error:
            if error.status == UNAVAILABLE:
                raise
            return None


class Nobody(Session):
    """Stands for the session of a client that has none: it has no files, secrets, logins or agents, and never leaves."""

    def __init__(self) -> None:
        self.name = self.key = ""
        self._methods = frozenset()

    def stream(self, method: str, metadata: Sequence[tuple[str, str]] = ()) -> ClientCall:
        raise ApiError("this build has no session of a client: nothing of the client's machine can be asked for", 400)

    def on_close(self, act: Callable[[], None]) -> None:
        pass


class Sessions:
    """Those that are open, by id. Thread-safe."""

    def nobody(self) -> Session:
        return Nobody()

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[str, Session] = {}

    def serve(self, carrier: Carrier, name: str, key: str, methods: Iterable[str]) -> None:
        """Blocks until the client leaves. Conflict."""
        from lamina.server.buildkit.http2 import Http2

        if not name:
            raise ApiError("a session without its id", 400)
        with self._changed:
            if name in self._open:
                raise Conflict(f"session {name[:64]} already exists")
            connection = Http2(carrier, None)
            self._open[name] = Session(name, key, methods, connection)
            self._changed.notify_all()
        try:
            connection.run()
        finally:
            with self._changed:
                del self._open[name]

    def wait(self, name: str, seconds: float = _PATIENCE) -> Session:
        """A client opens its session and asks for a build at the same time. ApiError."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._open, seconds)
            found = self._open.get(name)
        if found is None:
            raise ApiError(f"no active session for {name[:64]}: the client has left or never came", 404)
        return found
