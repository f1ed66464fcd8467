"""Secrets and ssh agents for RUN mounts. Values are read when a step needs them and live in memory only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lamina.diagnostics.errors import LaminaError, nearest
from lamina.engine.request import Secret

SECRET_LIMIT = 500 * 1024  # bytes; BuildKit's limit


class SecretUnavailable(LaminaError):
    code = "engine/secret"
    default_exit = 2


class Secrets:
    """The secrets of one build, by id."""

    def __init__(self, secrets: tuple[Secret, ...], more: Callable[[str], bytes | None] | None = None) -> None:
        """`more` is asked for an id that `secrets` does not have."""
        self._by_id = {secret.id: secret for secret in secrets}
        self._more = more

    def read(self, identifier: str, *, required: bool) -> bytes | None:
        """The secret's bytes; None when it was not given and is not required. Raises SecretUnavailable."""
        secret = self._by_id.get(identifier)
        if secret is None and self._more is not None and (found := self._more(identifier)) is not None:
            if len(found) > SECRET_LIMIT:
                raise SecretUnavailable(f"secret {identifier!r} is larger than {SECRET_LIMIT // 1024} KiB")
            return found
        if secret is None:
            if not required:
                return None
            near = nearest(identifier, list(self._by_id))
            raise SecretUnavailable(
                f"secret {identifier!r} is required and was not given",
                hint=f"did you mean id={near}?" if near else f"give it with --secret id={identifier},src=FILE",
            )
        if secret.value is not None:
            return secret.value
        assert secret.file is not None
        try:
            with open(secret.file, "rb") as file:
                data = file.read(SECRET_LIMIT + 1)
        except OSError as error:
            raise SecretUnavailable(f"secret {identifier!r}: cannot read {secret.file}: {error.strerror}") from error
        if len(data) > SECRET_LIMIT:
            raise SecretUnavailable(f"secret {identifier!r}: {secret.file} is larger than {SECRET_LIMIT // 1024} KiB")
        return data


@contextmanager
def agent_socket(agents: Mapping[str, Path], identifier: str, *, required: bool) -> Iterator[Path | None]:
    """The socket of the ssh agent `identifier`; a key file gets an agent of its own for the time of the block."""
    path = agents.get(identifier)
    if path is None:
        if required:
            raise SecretUnavailable(
                f"ssh agent {identifier!r} is required and was not given", hint=f"give it with --ssh {identifier}=SOCKET_OR_KEY"
            )
        yield None
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SecretUnavailable(f"ssh {identifier!r}: cannot use {path}: {error.strerror}") from error
    if stat.S_ISSOCK(mode):
        yield path
        return
    from shutil import which  # it brings all archive formats with it

    if not which("ssh-agent"):
        raise SecretUnavailable(
            f"ssh {identifier!r}: {path} is a key file and ssh-agent is not installed", hint="give an agent's socket instead"
        )
    with _agent_for_key(path, identifier) as socket:
        yield socket


@contextmanager
def _agent_for_key(key: Path, identifier: str) -> Iterator[Path]:
    import subprocess  # this and tempfile: only where a key is given
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lamina-ssh-") as folder:
        socket = Path(folder, "agent")
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                if socket.exists():
                    break
                try:
                    agent.wait(0.01)
                    break
                except subprocess.TimeoutExpired:
                    continue
            added = subprocess.run(
                ["ssh-add", str(key)],
                env={"SSH_AUTH_SOCK": str(socket), "PATH": os.defpath, "SSH_ASKPASS_REQUIRE": "never"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if added.returncode:
                said = (added.stderr.strip().splitlines() or ["it gives no reason"])[-1]
                raise SecretUnavailable(
                    f"ssh {identifier!r}: ssh-add refused {key}: {said}",
                    hint="a key with a passphrase must be in an agent: --ssh ID=SOCKET",
                )
            yield socket
        finally:
            agent.terminate()
            agent.wait()
