"""BuildKit's clients for tests: the docker CLI of 20.10, which has one built in, and buildx, called by its own name."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).parents[3]
_PLUGINS = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
)
_DOCKERS = ("/usr/bin/docker", "/usr/local/bin/docker")


@functools.cache
def buildx() -> str | None:
    """The program docker-buildx: $LAMINA_BUILDX, what `.ci/buildx` fetched, or the plugin that is installed."""
    places = [
        os.environ.get("LAMINA_BUILDX", ""),
        str(_REPOSITORY / ".venv/buildx/docker-buildx"),
        *(f"{p}/docker-buildx" for p in _PLUGINS),
    ]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


@functools.cache
def docker_20() -> str | None:
    """A docker CLI with BuildKit's client built in: up to 20.10. Later ones call buildx."""
    for place in _DOCKERS:
        if os.access(place, os.X_OK):
            said = subprocess.run([place, "--version"], capture_output=True, text=True, check=False).stdout
            found = re.search(r"version (\d+)\.", said)
            if found and int(found[1]) <= 20:
                return place
    return None


class Client:
    """One client at one engine. `kind`: "cli" (20.10), "buildx" (docker driver), "remote" (buildx, remote driver)."""

    def __init__(self, kind: str, host: str, home: Path) -> None:
        self.kind = kind
        self._environment = {
            **os.environ,
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / ".docker"),
            "DOCKER_HOST": host,
            "DOCKER_BUILDKIT": "1",
            "BUILDKIT_PROGRESS": "plain",
            "TERM": "dumb",
        }
        self._home = home
        (home / ".docker").mkdir(parents=True, exist_ok=True)
        if kind == "remote":
            self.run(["create", "--name", "far", "--driver", "remote", "--use", host]).check_returncode()

    def _program(self) -> str:
        found = docker_20() if self.kind == "cli" else buildx()
        assert found is not None
        return found

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 150,
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._program(), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env={**self._environment, **(environment or {})},
            cwd=cwd or self._home,
            timeout=timeout,
            check=False,
        )

    def start(self, arguments: Sequence[str], cwd: Path) -> subprocess.Popen[bytes]:
        """Not waited for."""
        return subprocess.Popen(
            [self._program(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
            cwd=cwd,
        )

    def build(
        self, context: Path, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """(exit code, everything that was said)"""
        place = "-" if stdin is not None and "-f" not in arguments else "."
        done = self.run(["build", *arguments, place], stdin=stdin, environment=environment, cwd=context)
        return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


def kinds() -> list[tuple[str, str | None]]:
    """(kind, why it is not here)"""
    no_cli = None if docker_20() else "no docker CLI of 20.10 or older is installed (make test-deps)"
    no_buildx = None if buildx() else "docker-buildx is not here (make test-deps)"
    return [("cli", no_cli), ("buildx", no_buildx), ("remote", no_buildx)]
