"""What a docker-registry under test asks for: a password, a certificate of a test authority, tokens of a service of our own."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "tester", "secret"
_HASH = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"  # bcrypt of PASSWORD: no htpasswd program is needed


def htpasswd(folder: Path) -> str:
    """The auth section for USER with PASSWORD."""
    file = folder / "htpasswd"
    file.write_text(f"{USER}:{_HASH}\n")
    return f"auth:\n  htpasswd: {{realm: test, path: {json.dumps(str(file))}}}\n"


def authority(folder: Path) -> Path:
    """A certificate authority; returns its certificate. Its key lies beside it."""
    certificate = folder / "ca.crt"
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lamina test authority",
        "-keyout", str(folder / "ca.key"), "-out", str(certificate),
    )  # fmt: skip  # options and their values belong together
    return certificate


def certificate(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """(certificate, key) for `address` and localhost, by the authority in `folder`."""
    made, key, request, extra = (folder / name for name in ("server.pem", "server.key", "server.csr", "server.ext"))
    extra.write_text(f"subjectAltName=IP:{address},DNS:localhost\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry", "-keyout", str(key), "-out", str(request))
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial",
        "-days", "2", "-extfile", str(extra), "-out", str(made),
    )  # fmt: skip  # as above
    return made, key


class TokenService:
    """Gives tokens that docker-registry believes: USER may pull and push everywhere, strangers may pull.

    `folder` has an authority (see `authority`). `asked`: the queries that came, with the user who was recognised.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self._folder = folder
        service = self

        class Handler(_Handler):
            owner = service

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def section(self) -> str:
        """The auth section of a registry that sends its clients here."""
        bundle = json.dumps(str(self._folder / "ca.crt"))
        return f"auth:\n  token: {{realm: '{self.realm}', service: test, issuer: test, rootcertbundle: {bundle}}}\n"

    def token(self, user: str, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [action for action in actions.split(",") if user or action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        der = subprocess.run(
            ["openssl", "x509", "-in", str(self._folder / "ca.crt"), "-outform", "DER"], check=True, capture_output=True
        ).stdout
        now = int(time.time())
        claims = {"iss": "test", "sub": user, "aud": "test", "nbf": now - 10, "exp": now + 300, "iat": now, "jti": str(len(self.asked))}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        text = f"{_web(json.dumps(head).encode())}.{_web(json.dumps({**claims, 'access': access}).encode())}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._folder / "ca.key")], input=text.encode(), check=True, capture_output=True
        ).stdout
        return f"{text}.{_web(signature)}"

    def __enter__(self) -> TokenService:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: TokenService

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        header = self.headers.get("Authorization", "")
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        query = parse_qs(urlsplit(self.path).query)
        user = USER if header == wanted else ""
        self.owner.asked.append((user, query))
        if header and not user:
            self.send_response(401)
            self.end_headers()
            return
        body = json.dumps({"token": self.owner.token(user, query.get("scope", []))}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _web(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
