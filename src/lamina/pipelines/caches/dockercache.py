"""The predefined docker cache: lamina's shared build cache, or Bitbucket's one docker.tar."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Protocol

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.caches.keeping import DOCKER, Held, Identity, Say
from lamina.pipelines.caches.slots import SlotCaches
from lamina.pipelines.docker.api import UnixConnection, message_of

_PIECE = 1 << 20


class DockerCacheFailed(LaminaError):
    code = "pipeline/docker-cache"


class DockerCache(Protocol):
    def restore(self, docker: Path | None, scratch: Path, say: Say) -> Held | None:
        """`docker` is the socket of the step's service, None when it has none. What `save` is called on after success."""
        ...


class SharedBuildCache:
    """All steps build over one store: each finds what any has made, nothing is copied, nobody overwrites. `place`: a shared cache that the engines of
    several machines have between them; empty where there is one machine."""

    def __init__(self, place: str = "") -> None:
        self._place = place

    def restore(self, docker: Path | None, scratch: Path, say: Say) -> Held | None:
        if docker is None:
            say('Cache "docker": not used: the step has no docker service')
        elif self._place:
            say(f'Cache "docker": shared: every step reads and adds to the build cache in {self._place}')
        else:
            say('Cache "docker": shared: every step reads and adds to the build cache of this machine; nothing is up- or downloaded')
        return None


class OneTar:
    """docker.tar as on Bitbucket: all images of the step's engine, saved by the first that ends, believed for a week."""

    def __init__(self, slots: SlotCaches) -> None:
        self._slots = slots

    def restore(self, docker: Path | None, scratch: Path, say: Say) -> Held | None:
        if docker is None:
            say('Cache "docker": not used: the step has no docker service')
            return None
        identity = Identity(DOCKER, "docker.tar")
        found = self._slots.open(identity, say)
        if found is not None:
            with found:
                status, answer = _ask(docker, "POST", "/images/load?quiet=1", found)
            if status != 200:
                say(f'Cache "docker": cannot be loaded: {message_of(answer)}')
        return _HeldTar(self._slots, identity, docker, scratch, found is not None)


class _HeldTar:
    def __init__(self, slots: SlotCaches, identity: Identity, docker: Path, scratch: Path, existed: bool) -> None:
        self._slots = slots
        self._identity = identity
        self._docker = docker
        self._scratch = scratch
        self._existed = existed

    def save(self, folder: Path, say: Say) -> None:
        def write(target: Path) -> bool:
            status, answer = _ask(self._docker, "GET", "/images/json")
            rows = json.loads(answer) if status == 200 else []
            names = [tag for row in rows for tag in (row.get("RepoTags") or ()) if tag != "<none>:<none>"]
            names += [row["Id"] for row in rows if not [tag for tag in row.get("RepoTags") or () if tag != "<none>:<none>"]]
            if not names:
                return False
            from urllib.parse import urlencode

            _download(self._docker, "/images/get?" + urlencode([("names", name) for name in names]), target)
            return True

        self._slots.put(self._identity, self._existed, write, say, self._scratch / "docker.tar")


def _ask(docker: Path, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = UnixConnection(docker)
    try:
        headers = {} if body is None else {"Content-Type": "application/x-tar"}
        connection.request(method, path, body=body, headers=headers, encode_chunked=body is not None)  # type: ignore[arg-type]  # a file or nothing
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise DockerCacheFailed(f"the docker service does not answer: {error}") from error
    finally:
        connection.close()


def _download(docker: Path, path: str, target: Path) -> None:
    connection = UnixConnection(docker)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            raise DockerCacheFailed(f"docker image save: {message_of(response.read())}")
        with open(target, "wb") as file:
            while data := response.read(_PIECE):
                file.write(data)
    except (OSError, http.client.HTTPException) as error:
        raise DockerCacheFailed(f"docker image save: {error}") from error
    finally:
        connection.close()
