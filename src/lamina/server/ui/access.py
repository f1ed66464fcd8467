"""Who may see the pages. On loopback and the unix socket everybody who can connect may, if the request names this machine (else a page
elsewhere could reach it by a DNS name that it points here). Otherwise a token is needed: once in the address, then in a cookie."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from lamina.server.http.messages import Answer, Request
from lamina.server.locality import is_local, names_this_machine

COOKIE = "lamina_ui"


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
    if is_local(place):
        if names_this_machine(headers.get("host", "")):
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
