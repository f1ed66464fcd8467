"""Hard times for an engine that serves: storms, clients that leave anywhere, cut and crooked requests, slow readers; and what it has afterwards.

    python -m lamina.testing.soak [--seconds 600]

One engine for all rounds. It must answer all the time, and own no more descriptors, processes, threads and (but for a little) memory at the end
than after the first round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from lamina.testing import bases

_PATIENCE = 120.0  # seconds that an answer may take on a busy machine
_SETTLING = 120.0  # seconds for what is ending
MORE_MEMORY = 48.0  # MB that the allocator may have kept


class Counts(msgspec.Struct, frozen=True):
    descriptors: int
    processes: int
    threads: int
    memory: float  # MB


class Engine:
    """A process that listens at a unix socket."""

    def __init__(self, place: Path, pid: int) -> None:
        self.place = place
        self.pid = pid

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(self.place))  # waits where the queue is full
        made.settimeout(_PATIENCE)
        return made

    def send(self, data: bytes, *, close: bool = True) -> bytes:
        """All that comes back for these bytes."""
        with self.connect() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            if close:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{method} /v1.41{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        answer = self.send(head.encode() + data, close=False)
        head_bytes, _, rest = answer.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head_bytes.lower():
            rest = _unchunked(rest)
        return int(answer.split(b" ", 2)[1]), rest

    def good(self, method: str, path: str, body: object = None) -> Any:
        status, data = self.call(method, path, body)
        assert status < 400, (method, path, status, data)
        return json.loads(data) if data.strip() else None

    def counts(self) -> Counts:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return Counts(
            len(os.listdir(f"/proc/{self.pid}/fd")), len(_below(self.pid)), int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024
        )


def _below(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                found += [int(child) for child in Path(f"/proc/{each}/task/{task}/children").read_text().split()]
    return found[1:]


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def _unchunked(data: bytes) -> bytes:
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        if not int(size or b"0", 16):
            break
        found += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return found


def create(engine: Engine, *command: str, **more: Any) -> str:
    host = {"NetworkMode": "none", **more.pop("HostConfig", {})}
    body = {"Image": "busybox", "Cmd": command, "StopSignal": "SIGKILL", "HostConfig": host, **more}
    identifier = str(engine.good("POST", "/containers/create", body)["Id"])
    engine.good("POST", f"/containers/{identifier}/start")
    return identifier


def upgrade(path: str, body: bytes = b"{}") -> bytes:
    head = f"POST /v1.41{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Place(msgspec.Struct, frozen=True):
    """What the rounds work on: an engine, a container that sleeps, a folder of the machine that nothing may be written to."""

    engine: Engine
    sleeper: str
    outside: Path
    storm: int


def storm(place: Place) -> None:
    """So many commands in one container; every one says its number."""
    engine = place.engine

    def one(number: int) -> bytes:
        made = engine.good("POST", f"/containers/{place.sleeper}/exec", {"Cmd": ["echo", str(number)], "AttachStdout": True})
        with engine.connect() as connection:
            connection.sendall(upgrade(f"/exec/{made['Id']}/start"))
            return read_all(connection).partition(b"\r\n\r\n")[2]

    with ThreadPoolExecutor(16) as pool:
        for number, said in enumerate(pool.map(one, range(place.storm))):
            assert said[8:] == b"%d\n" % number, (number, said)


def left_at_each_byte(place: Place) -> None:
    """Clients of taken-over connections that leave after each byte of what they send, and of what they get; some with a reset."""
    engine = place.engine

    def cut(data: bytes, count: int, read: int, how: str) -> None:
        with engine.connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data[:count])
                if read:
                    connection.shutdown(socket.SHUT_WR)  # the command ends, so that nobody waits for more than there is
                left = read
                while left and (piece := connection.recv(left)):
                    left -= len(piece)
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    attach = upgrade(f"/containers/{place.sleeper}/attach?stream=1&stdout=1&stdin=1&logs=1", b"") + b"typed\n"
    for count in range(len(attach) + 1):
        cut(attach, count, 0, "reset" if count % 2 else "close")
    for number in range(0, 260, 5):
        made = engine.good("POST", f"/containers/{place.sleeper}/exec", {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True})
        data = upgrade(f"/exec/{made['Id']}/start") + b"x" * 120
        cut(data, min(number + 60, len(data)), 0, "reset" if number % 2 else "close")
    for read in range(1, 260, 4):
        made = engine.good("POST", f"/containers/{place.sleeper}/exec", {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True})
        data = upgrade(f"/exec/{made['Id']}/start") + b"x" * 120
        cut(data, len(data), read, "reset" if read % 8 == 1 else "close")


def bodies_cut_off(place: Place) -> None:
    context = _tar({"Dockerfile": b"FROM busybox\n", "file": b"x" * 5000})
    for path, body in (
        ("/build?t=cut", context), ("/images/load", context), ("/containers/create", b'{"Image": "busybox", "Cmd": ["true"]}'),
        (f"/containers/{place.sleeper}/exec", b'{"Cmd": ["true"]}'), ("/images/create?fromSrc=-", context),
    ):  # fmt: skip
        for part in (0, 1, len(body) // 2, len(body) - 1):
            stated = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            place.engine.send(stated + body[:part])
            chunked = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
            place.engine.send(chunked + body[:part])
    put = f"PUT /containers/{place.sleeper}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: {len(context)}\r\n\r\n".encode()
    for part in (0, 600, len(context) - 700):
        place.engine.send(put + context[:part])


def heads_too_large(place: Place) -> None:
    for data in (
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n",
    ):
        answer = place.engine.send(data)
        assert not answer or answer.split(b" ", 2)[1] in (b"400", b"431", b"404"), answer[:100]
    for data in (
        b"\x00" * 1000,
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"POST /build HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        place.engine.send(data)


def crooked_paths(place: Place) -> None:
    """Names and archives that lead out."""
    engine = place.engine
    up = ("../../../../../../../..", "..%2f..%2f..%2f..%2f..", "%2e%2e/%2e%2e/%2e%2e", "%00", "a" * 5000, "%ff%fe")
    for name in up:
        for path in (
            "/containers/{}/json",
            "/images/{}/json",
            "/volumes/{}",
            "/networks/{}",
            "/exec/{}/json",
            "/containers/{}/archive?path=/",
        ):
            status, _ = engine.call("GET", path.format(name))
            assert status >= 400, (path, name, status)
    for name in ("../x", "/etc/x", "a/../../x", "x\x00y", ""):
        engine.call("POST", "/volumes/create", {"Name": name} if name else {"Name": "..", "Labels": {"soak": "1"}})
        assert engine.call("POST", "/networks/create", {"Name": name})[0] >= 400
        engine.call("POST", "/build?dockerfile=../../../../etc/passwd&t=crooked", _tar({"Dockerfile": b"FROM busybox\n"}))
    target = str(place.outside / "x")
    crooked = (
        _tar({f"../../../../../../../..{target}": b"1", target: b"2", "ok": b"3"}, links={"out": str(place.outside), "up": "../" * 20})
        + b""
    )
    more = _tar({"out/x": b"1", f"up{target}": b"2"})
    for data in (crooked, more):
        engine.call("PUT", f"/containers/{place.sleeper}/archive?path=/tmp", data)
        engine.call("POST", "/build?t=crooked", data)
        engine.call("POST", "/images/load", data)
    assert list(place.outside.iterdir()) == [], "something was written outside"
    for volume in engine.good("GET", "/volumes")["Volumes"]:
        engine.call("DELETE", f"/volumes/{volume['Name']}")


def slow_readers(place: Place) -> None:
    """A container that writes as fast as it can, and clients that read a little and leave."""
    engine = place.engine
    identifier = create(engine, "yes", HostConfig={"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}})
    slow = []
    for path in (f"/containers/{identifier}/logs?follow=1&stdout=1", f"/containers/{identifier}/logs?follow=1&stdout=1&tail=10"):
        connection = engine.connect()
        connection.sendall(f"GET /v1.41{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        slow.append(connection)
    attached = engine.connect()
    attached.sendall(upgrade(f"/containers/{identifier}/attach?stream=1&stdout=1", b""))
    slow.append(attached)
    for _ in range(5):
        for connection in slow:
            assert connection.recv(512)
        engine.good("GET", f"/containers/{identifier}/json")
    for connection in slow:
        connection.close()
    assert engine.call("DELETE", f"/containers/{identifier}?force=1")[0] == 204


def comings_and_goings(place: Place) -> None:
    """Containers with networks and ports that begin and end."""
    engine = place.engine
    engine.good("POST", "/networks/create", {"Name": "soak"})
    for number in range(5):
        bindings = {"80/tcp": [{"HostIp": "127.0.0.1"}], "53/udp": [{"HostIp": "127.0.0.1"}]}
        identifier = create(engine, "sleep", "1000", HostConfig={"NetworkMode": "soak", "PortBindings": bindings, "PidsLimit": 50})
        port = engine.good("GET", f"/containers/{identifier}/json")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        with socket.create_connection(("127.0.0.1", int(port)), _PATIENCE) as connection, contextlib.suppress(OSError):
            connection.recv(1)
        assert engine.call("DELETE", f"/containers/{identifier}?force=1&v=1")[0] == 204, number
    engine.good("DELETE", "/networks/soak")


ROUNDS: tuple[Callable[[Place], None], ...] = (
    storm, left_at_each_byte, bodies_cut_off, heads_too_large, crooked_paths, slow_readers, comings_and_goings,
)  # fmt: skip


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Engine]:
    """An engine with the image `busybox`."""
    place = folder / "engine.sock"
    with open(folder / "engine.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lamina", "--root", str(folder / "root"), "serve", "--host", f"unix://{place}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        engine = Engine(place, process.pid)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                engine.good("GET", "/version")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "engine.log").read_text(errors="replace")) from None
                time.sleep(0.02)
        engine.good("POST", "/images/create?fromSrc=-&repo=busybox", bases.busybox_tar(folder / "base.tar").read_bytes())
        yield engine
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settled(engine: Engine, wanted: Counts | None) -> Counts:
    """What it has once nothing ends any more, or (`wanted`) once it has no more than that."""
    deadline = time.monotonic() + _SETTLING
    found = engine.counts()
    while time.monotonic() < deadline:
        before, found = found, engine.counts()
        if (wanted is None and found == before) or (wanted is not None and not grown(wanted, found)):
            break
        time.sleep(0.2)
    return found


def grown(before: Counts, after: Counts) -> list[str]:
    """What there is more of. Idle threads of the engine's pool stay; there are as many as there were requests at a time."""
    limits = {
        "descriptors": before.descriptors + 2, "processes": before.processes, "threads": before.threads + 64, "memory": before.memory + MORE_MEMORY,
    }  # fmt: skip
    return [f"{name}: {getattr(before, name)} -> {getattr(after, name)}" for name, limit in limits.items() if getattr(after, name) > limit]


def soak(folder: Path, seconds: float, commands: int, say: Callable[[str], None]) -> list[str]:
    """What leaked; AssertionError when something went wrong meanwhile. At least two rounds."""
    outside = folder / "outside"
    outside.mkdir()
    with served(folder) as engine:
        place = Place(engine, create(engine, "sleep", "100000"), outside, commands)
        first: Counts | None = None
        began = time.monotonic()
        number = 0
        while number < 2 or time.monotonic() - began < seconds:
            number += 1
            for act in ROUNDS:
                from_here = time.monotonic()
                act(place)
                say(f"  {act.__name__} {time.monotonic() - from_here:.1f} s")
                assert engine.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", close=False).endswith(b"OK")
            counts = settled(engine, first)
            first = first or counts
            say(f"round {number}, {time.monotonic() - began:.0f} s: {counts}")
        return grown(first or counts, counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--commands", type=int, default=1000, help="of one storm")
    options = parser.parse_args()
    missing = bases.why_not() or (None if os.geteuid() == 0 else "containers of the soak run as root")
    if missing:
        raise SystemExit(missing)
    with tempfile.TemporaryDirectory(prefix="lamina-soak-", dir="/var/tmp") as folder:
        leaked = soak(Path(folder), options.seconds, options.commands, lambda line: print(line, flush=True))
    print("\n".join(leaked) or "nothing leaked")
    return 1 if leaked else 0


if __name__ == "__main__":
    sys.exit(main())
