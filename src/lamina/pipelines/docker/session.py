"""What one docker command works with: the engine, its call, the step's logins; and what several commands do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lamina.oci.reference import Reference
from lamina.pipelines.docker.api import Engine, Json, packed
from lamina.pipelines.docker.desk import Call

_HUB = ("", "docker.io", "index.docker.io", "registry-1.docker.io")


class Session:
    """`clone` is the step's clone directory on this machine. `logins` are shared by all calls of the step."""

    def __init__(self, engine: Engine, call: Call, clone: Path, logins: dict[str, dict[str, str]]) -> None:
        self.engine = engine
        self.call = call
        self.clone = clone
        self.logins = logins

    def host_of(self, address: str) -> str:
        host = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
        return "docker.io" if host in _HUB else host

    def every_login(self) -> dict[str, dict[str, str]]:
        """Those of `docker login`, then those of the step's own config.json."""
        found: dict[str, dict[str, str]] = {}
        text = self.call.text(f"{self.call.config}/config.json")
        try:
            auths = obj(json.loads(text or "{}")).get("auths")
        except ValueError:
            auths = None
        for address, entry in auths.items() if isinstance(auths, dict) else ():
            login = _login(entry)
            if login:
                found[self.host_of(str(address))] = {**login, "serveraddress": str(address)}
        return found | self.logins

    def login_for(self, registry: str) -> str:
        """For X-Registry-Auth."""
        return packed(self.every_login().get(self.host_of(registry), {}))

    def pull(self, name: str, *, platform: str = "", quiet: bool = False) -> int:
        reference = Reference.parse(name).with_default_tag()
        query = [("fromImage", str(reference)), *([("platform", platform)] if platform else [])]
        with self.engine.ask("POST", "/images/create", query, headers={"X-Registry-Auth": self.login_for(reference.registry)}) as answer:
            return self.show(answer.rows(), quiet=quiet)

    def show(self, rows: Iterable[Json], *, quiet: bool = False) -> int:
        """The engine's rows as docker prints them without a terminal; 1 when one is an error."""
        for row in rows:
            if row.get("error"):
                detail = row.get("errorDetail")
                code = detail.get("code") if isinstance(detail, dict) else None
                self.call.err(f"{row['error']}\n")
                return int(code) if isinstance(code, int) and code else 1
            if quiet:
                continue
            if "stream" in row:
                self.call.out(str(row["stream"]))
            elif "status" in row and not row.get("progressDetail"):
                head = f"{row['id']}: " if row.get("id") else ""
                self.call.out(f"{head}{row['status']}\n")
        return 0


def _login(entry: object) -> dict[str, str]:
    import base64

    if not isinstance(entry, dict):
        return {}
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"])}
    try:
        user, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return {}
    return {"username": user, "password": password} if colon else {}


def obj(value: object) -> Json:
    """An object of an answer; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def rows_of(value: object) -> list[Json]:
    return [obj(one) for one in value] if isinstance(value, list) else []


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""
