"""The listener that a registry's push notifications go to. Loopback unless a token is asked for; a notification only says "look now": what has
moved is read from the registry itself, so a forged one costs a few requests and changes nothing."""

from __future__ import annotations

import hmac
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lamina.diagnostics.errors import LaminaError
from lamina.engine.freshness.watching import Event, Events, parse_notification

_LIMIT = 1 << 20  # bytes of a notification
_TIMEOUT = 10.0  # seconds for a whole request's next bytes
_PENDING = 1000


class BadListener(LaminaError):
    code = "freshness/listener"
    default_exit = 2


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16


@contextmanager
def listening(address: str, token: str | None, events: Events) -> Iterator[str]:
    """Serve on `HOST:PORT` (port 0: any); yields the address. With `token` requests must carry `Authorization: Bearer TOKEN`."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BadListener(f"{address!r} is not HOST:PORT", hint="for example 127.0.0.1:8790")
    host = host.strip("[]") or "127.0.0.1"
    if token is None and not _loopback(host):
        raise BadListener(f"{address} can be reached by others", hint="set LAMINA_WEBHOOK_TOKEN, or listen on 127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.close_connection = True
            given = self.headers.get("Authorization", "")
            if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self._answer(401)
                return
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal()):
                self._answer(411)
            elif int(length) > _LIMIT:
                self._answer(413)
            else:
                pushed = parse_notification(self.rfile.read(int(length)))
                if pushed and events.qsize() < _PENDING:
                    events.put(Event(pushed))
                self._answer(202 if pushed else 200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = _Server((host, int(port)), Handler)
    except (OSError, OverflowError) as error:
        raise BadListener(f"cannot listen on {address}: {error}") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True, name="lamina-webhook")
    thread.start()
    try:
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
