"""The shared caches of a trial: where writers find them, and how their servers are started, killed and started again."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from lamina.testing import registryauth, seaweed
from lamina.testing.machines import ADDRESS, Network
from lamina.testing.registry import free_port

Backend = Literal["dir", "oci", "s3", "http"]
BACKENDS: tuple[Backend, ...] = ("dir", "oci", "s3", "http")
TOKEN = "a-token-of-the-trial"


class Server(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None:
        """By SIGKILL: nothing that the server has in mind only is written any more."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """`spec`: for --cache-from and --cache-to. `environment`: what the command line needs beside it. `server`, `port`: none for a folder."""

    spec: str
    environment: Mapping[str, str] = field(default_factory=dict)
    server: Server | None = None
    port: int = 0


class Process:
    """A server that is one process."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._command, self._log, self._environment = list(command), log, environment
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._running = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment)

    def stop(self) -> None:
        if self._running is not None:
            self._running.send_signal(signal.SIGKILL)
            self._running.wait()
            self._running = None


class _Seaweed:
    def __init__(self, server: seaweed.Seaweed) -> None:
        self._server = server

    def start(self) -> None:
        self._server.start(wait=False)

    def stop(self) -> None:
        self._server.stop()


def why_not(backend: Backend) -> str | None:
    """The reason why this backend cannot be had here, or None."""
    if backend == "oci" and not shutil.which("docker-registry"):
        return "docker-registry is not installed (make test-deps)"
    if backend == "http" and not shutil.which("openssl"):
        return "openssl is not installed"
    if backend == "s3":
        try:
            import obstore
        except ImportError:
            return "the extra `s3` is not installed"
        del obstore
        return seaweed.why_not()
    return None


@contextmanager
def place(backend: Backend, folder: Path, net: Network) -> Iterator[Place]:
    """An empty cache whose server listens in the hub of `net`."""
    folder.mkdir(parents=True)
    if backend == "dir":
        yield Place(f"dir:{folder / 'cache'}")
        return
    made = {"oci": _oci, "s3": _s3, "http": _http}[backend](folder, net)
    assert made.server is not None
    made.server.start()
    try:
        net.wait_for(made.port)
        if backend == "s3":
            endpoint = made.spec.partition("endpoint=")[2]
            script = "import sys; from lamina.testing.seaweed import make_bucket; make_bucket(sys.argv[1])"
            subprocess.run([*net.enter(net.hub), sys.executable, "-c", script, endpoint], check=True, capture_output=True)
        yield made
    finally:
        made.server.stop()


def registry(folder: Path, net: Network, tls: tuple[Path, Path] | None = None) -> tuple[Process, str]:
    """docker-registry in the hub, not started; and its HOST:PORT. `tls`: certificate and key."""
    port = free_port()
    settings = folder / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage:\n  filesystem: {{rootdirectory: {json.dumps(str(folder / 'registry'))}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: '{ADDRESS}:{port}'\n"
        + (f"  tls: {{certificate: {json.dumps(str(tls[0]))}, key: {json.dumps(str(tls[1]))}}}\n" if tls else "")
    )
    return Process([*net.enter(net.hub), "docker-registry", "serve", str(settings)], folder / "server.log"), f"{ADDRESS}:{port}"


def _oci(folder: Path, net: Network) -> Place:
    server, host = registry(folder, net)
    settings = folder / "registries.toml"
    settings.write_text(f'insecure = ["{host}"]\n')
    return Place(f"oci://{host}/team/cache", {"LAMINA_REGISTRIES": str(settings)}, server, int(host.rpartition(":")[2]))


def _s3(folder: Path, net: Network) -> Place:
    server = seaweed.Seaweed(folder, ADDRESS, net.enter(net.hub))
    spec = f"s3://{seaweed.BUCKET}/team/cache,endpoint={server.endpoint}"
    return Place(spec, seaweed.CREDENTIALS, _Seaweed(server), server.port)


def _http(folder: Path, net: Network) -> Place:
    port = free_port()
    access = folder / "access.toml"
    access.write_text(f'[tokens.ci]\nsha256 = "{hashlib.sha256(TOKEN.encode()).hexdigest()}"\nwrite = ["*"]\n')
    authority = registryauth.authority(folder)
    certificate, key = registryauth.certificate(folder, ADDRESS)
    command = [
        *net.enter(net.hub), sys.executable, "-m", "lamina", "serve", "--cache", str(folder / "cache"), "--access", str(access),
        "--host", f"tcp://{ADDRESS}:{port}", "--tlscert", str(certificate), "--tlskey", str(key),
    ]  # fmt: skip  # options and their values belong together
    environment = {"TRIAL_TOKEN": TOKEN, "SSL_CERT_FILE": str(authority)}
    return Place(f"https://{ADDRESS}:{port},token-env=TRIAL_TOKEN", environment, Process(command, folder / "server.log"), port)
