"""Where clients come in: unix sockets, tcp with or without TLS, sockets that were handed over. The loop, signals and the idle clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.server.http.messages import Reply, Request

if TYPE_CHECKING:
    import ssl

    from lamina.server.http.connection import Sink, Source

_LISTEN_FDS_START = 3
_THREADS = 4096  # made as they are needed: an attached client has one, a waiting one too
_BACKLOG = 1024


class CannotListen(LaminaError):
    code = "server/listen"
    default_exit = 2


class Tls(msgspec.Struct, frozen=True):
    """`ca` given: only clients with a certificate that it signed come in (docker's --tlsverify)."""

    certificate: Path
    key: Path
    ca: Path | None = None


def open_sockets(
    hosts: Sequence[str], *, tls: Tls | None, insecure_tcp: bool, environment: Mapping[str, str], pid: int
) -> tuple[list[socket.socket], list[Path]]:
    """Listening sockets of `unix://PATH`, `tcp://ADDRESS:PORT` and `fd://` (socket activation), and the socket files that are ours to
    remove. CannotListen."""
    handed = _handed_over(environment, pid)
    files: list[Path] = []
    found: list[socket.socket] = []
    for host in hosts:
        if host in ("fd://", "fd://*"):
            if not handed:
                raise CannotListen("fd:// needs sockets from the service manager, and none were handed over")
            found += handed
        elif host.startswith("unix://"):
            files.append(Path(host.removeprefix("unix://")))
            found.append(_unix(files[-1]))
        elif host.startswith("tcp://"):
            found.append(_tcp(host.removeprefix("tcp://"), tls, insecure_tcp))
        else:
            raise CannotListen(f"--host {host!r} is neither unix://PATH nor tcp://ADDRESS:PORT nor fd://")
    return found, files


def _handed_over(environment: Mapping[str, str], pid: int) -> list[socket.socket]:
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(pid) or not count.isascii() or not count.isdecimal() or len(count) > 4:
        return []
    found = []
    for number in range(_LISTEN_FDS_START, _LISTEN_FDS_START + int(count)):
        try:
            os.set_inheritable(number, False)
            found.append(socket.socket(fileno=number))
        except OSError as error:
            raise CannotListen(f"the service manager's descriptor {number} is no socket: {error.strerror}") from error
    return found


def _unix(path: Path) -> socket.socket:
    """Mode 0600. A socket that nobody listens at is replaced, one that answers is not."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)
            else:
                raise CannotListen(f"{path}: another engine listens there", hint="stop it, or give --host another path")
    elif os.path.lexists(path):
        raise CannotListen(f"cannot listen at {path}: something that is no socket is there", hint="give --host another path")
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen at {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def _tcp(place: str, tls: Tls | None, insecure: bool) -> socket.socket:
    address, colon, port = place.rpartition(":")
    address = address.strip("[]")
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise CannotListen(f"--host tcp://{place}: an address and a port are needed, as in tcp://127.0.0.1:2375")
    verified = tls is not None and tls.ca is not None
    loopback = address in ("localhost", "::1") or address.startswith("127.")
    if not verified and not (loopback and insecure):
        raise CannotListen(
            f"tcp://{place} without --tlsverify lets in everybody who can reach it",
            hint="give --tlsverify with certificates; on loopback --insecure-tcp opens it to every user of this machine",
        )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, int(port)))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen at tcp://{place}: {error.strerror or error}") from error
    listener.listen(_BACKLOG)
    return listener


def _context(tls: Tls) -> ssl.SSLContext:
    import ssl  # only where it is asked for

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1", "h2"])  # who knows both gets HTTP/1.1; gRPC's clients know h2 only
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(f"the certificates cannot be used: {error}") from error
    return context


class Server:
    """Runs until SIGTERM, SIGINT, or nobody was there for `idle_exit` seconds and `busy()` says no."""

    def __init__(
        self,
        serve: Callable[[Request], Reply],
        sockets: Sequence[socket.socket],
        *,
        tls: Tls | None = None,
        idle_exit: float | None = None,
        busy: Callable[[], bool] = lambda: False,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._serve = serve
        self._sockets = sockets
        self._context = None if tls is None else _context(tls)
        self._idle_exit = idle_exit
        self._busy = busy
        self._headers = headers
        self._clients: set[asyncio.Task[None]] = set()
        self._last = 0.0

    def run(self, ready: Callable[[], None] = lambda: None, stopping: Callable[[], None] = lambda: None) -> None:
        """Blocks. `ready` is called when clients can come, `stopping` on a thread when none can come any more; then they are let go."""
        asyncio.run(self._main(ready, stopping))

    async def _ends(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Source, Sink]:
        """What a connection reads and writes: with TLS where it came by tcp and certificates were given. ConnectionError."""
        if self._context is None or writer.get_extra_info("socket").family == socket.AF_UNIX:
            return reader, writer
        from lamina.server.http.tls import TlsStream

        stream = TlsStream(reader, writer, self._context)
        await stream.handshake()
        return stream, stream

    async def _main(self, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._last = loop.time()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="lamina-api")

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            from lamina.server.http.connection import Connection

            task = asyncio.current_task()
            assert task is not None
            self._clients.add(task)
            try:
                await Connection(*await self._ends(reader, writer), self._serve, pool, self._headers).run()
            except ConnectionError:
                writer.close()
            except asyncio.CancelledError:
                writer.close()
            finally:
                self._clients.discard(task)
                self._last = loop.time()

        servers = []
        for listener in self._sockets:
            if listener.family == socket.AF_UNIX:
                servers.append(await asyncio.start_unix_server(accept, sock=listener, backlog=_BACKLOG))
            else:
                servers.append(await asyncio.start_server(accept, sock=listener, backlog=_BACKLOG))
        ready()
        if self._idle_exit is None:
            await stop.wait()
        while self._idle_exit is not None and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(1.0, self._idle_exit / 4))
            if self._clients or self._busy():
                self._last = loop.time()
            elif loop.time() - self._last >= self._idle_exit:
                break
        for server in servers:
            server.close()
        await loop.run_in_executor(pool, stopping)
        for task in list(self._clients):
            task.cancel()
        await asyncio.sleep(0)
        pool.shutdown(wait=False, cancel_futures=True)
