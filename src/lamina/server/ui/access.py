"""Who may see the pages. On loopback and the unix socket everybody who can connect may, if the request names this machine (else a page
elsewhere could reach it by a DNS name that it points here). Otherwise a token is needed: once in the address, then in a cookie."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from lamina.server.http.messages import Answer, Request

COOKIE = "lamina_ui"
_LOCAL = ("localhost", "[::1]", "")


def is_open(place: str) -> bool:
    """Whether all listeners (separated by commas) are unix sockets or loopback. What a service manager handed over is not known to be."""
    return all(host.startswith("unix://") or _loopback(host) for host in place.split(","))


def token_of(folder: Path) -> str:
    """The token in `folder`/ui-token (mode 0600), made at its first use; two threads get the same."""
    file = folder / "ui-token"
    if not file.exists():
        made = folder / f"ui-token.{secrets.token_hex(8)}"
        with open(made, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
            out.write(secrets.token_urlsafe(32))
        try:
            os.link(made, file)
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return file.read_text()


def refusal(request: Request, place: str, folder: Path) -> Answer | None:
    """None lets the request in. A token in the address is answered by a redirect that keeps it in a cookie."""
    headers = request.headers
    if "origin" in headers or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return _plain("requests of other pages are refused", 403)
    if is_open(place):
        name = headers.get("host", "").lower()
        host = name if name.endswith("]") else name.rpartition(":")[0] if ":" in name else name
        if host in _LOCAL or _is_ipv4_loopback(host):
            return None
        return _plain("this engine answers to localhost only", 403)
    token = token_of(folder)
    given = request.query.get("token")
    if given and _same(given, token):
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; Secure; SameSite=Strict"
        return Answer(
            303, b"", "", (("Location", "/ui"), ("Set-Cookie", cookie), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"))
        )
    candidates = [headers.get("authorization", "").removeprefix("Bearer ")]
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            candidates.append(value)
    if any(_same(one, token) for one in candidates):
        return None
    return _plain("a token is needed: open /ui?token=TOKEN once; it is in the file ui-token of the engine's folder in the store", 401)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())


def _plain(message: str, status: int) -> Answer:
    return Answer(status, message.encode() + b"\n", "text/plain; charset=utf-8", (("Cache-Control", "no-store"),))


def _loopback(host: str) -> bool:
    if not host.startswith("tcp://"):
        return False
    name = host.removeprefix("tcp://").rpartition(":")[0]
    return name in ("localhost", "[::1]", "::1") or _is_ipv4_loopback(name)


def _is_ipv4_loopback(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isascii() and part.isdigit() for part in parts)
