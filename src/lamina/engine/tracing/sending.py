"""A trace on its way to the collector: one POST, in a thread of its own, so that neither a name server nor a slow reader holds a build longer than
the time that was given. No retry, no redirect, no proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from lamina.engine.tracing.asked import Asked

_AT_ONCE = threading.BoundedSemaphore(4)  # of a server with many builds and a slow collector; more are dropped


def send(asked: Asked, body: bytes, warn: Callable[[str], None], *, wait: bool) -> None:
    """`wait`: return when it was sent, or `asked.seconds` later; else at once. `warn` gets one line when the collector has not taken it."""
    host = urlsplit(asked.endpoint).netloc
    turns = _AT_ONCE
    if not turns.acquire(blocking=False):
        warn(f"the trace was not sent to {host}: others are still on their way")
        return
    told: list[str] = []

    def run() -> None:
        try:
            why = _post(asked, body)
        finally:
            turns.release()
        if why and wait:
            told.append(why)
        elif why:
            warn(f"the trace was not sent to {host}: {why}")

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads
        turns.release()
        raise
    if wait:
        thread.join(asked.seconds)
        if thread.is_alive():
            warn(f"the trace was not sent to {host}: no answer in {asked.seconds:g} s")
        elif told:
            warn(f"the trace was not sent to {host}: {told[0]}")


def _post(asked: Asked, body: bytes) -> str:
    """Why it was not taken, "" when it was."""
    import http.client

    parts = urlsplit(asked.endpoint)
    kind = "application/json" if asked.protocol == "http/json" else "application/x-protobuf"
    headers = {"User-Agent": "lamina", **dict(asked.headers), "Content-Type": kind}
    if asked.gzip:
        import gzip

        body = gzip.compress(body, 6)
        headers["Content-Encoding"] = "gzip"
    try:
        if parts.scheme == "https":
            import ssl

            context = ssl.create_default_context(cafile=asked.certificate)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                str(parts.hostname), parts.port, timeout=asked.seconds, context=context
            )
        else:
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=asked.seconds)
        try:
            connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    except TimeoutError:
        return f"no answer in {asked.seconds:g} s"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    return "" if 200 <= status < 300 else f"it answered {status}"
