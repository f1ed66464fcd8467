"""`lamina serve --keep` with the docker CLI: engines end and are killed, what they run goes on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.sandbox import kept
from lamina.server.places import folder_of, place_of
from lamina.testing import bases, engineserver

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed (make test-deps)"),
]


class Engine:
    """One after the other over one store, at one address."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.log = folder / "engine.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.host = ""

    def start(self, *options: str) -> None:
        self.process, self.host = engineserver.begin(self.root, *options)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        engineserver.end(self.process)

    def docker(self, *words: str) -> str:
        done = subprocess.run(["docker", "--host", self.host, *words], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, (words, done.stdout, done.stderr, self.log.read_text())
        return done.stdout.strip()

    def keepers(self) -> dict[Path, kept.Keeper]:
        return dict(kept.running_in(folder_of(self.root, place_of([self.host])) / "containers"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    found = Engine(tmp_path)
    found.start("--keep")
    found.docker("import", str(bases.busybox_tar(tmp_path / "base.tar")), "busybox")
    yield found
    found.stop()
    left = found.keepers()
    for folder, keeper in left.items():
        kept.end(folder, keeper)
    assert not left, "a test ends what it began"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


COUNTS = "i=0; while :; do i=$((i+1)); echo $i; usleep 500; done"


def test_a_counter_loses_nothing_when_engines_are_killed(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "count", "--network", "none", "busybox", "sh", "-c", COUNTS)
    pid = engine.docker("inspect", "-f", "{{.State.Pid}}", "count")
    for _ in range(3):
        wait_for_more(engine)
        engine.kill()
        engine.start("--keep")
        assert engine.docker("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "count") == f"running {pid}"
    follower = subprocess.Popen(
        ["docker", "--host", engine.host, "logs", "-f", "--tail", "5", "count"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert follower.stdout is not None
    following = [int(follower.stdout.readline()) for _ in range(100)]
    assert following == list(range(following[0], following[0] + 100))
    assert engine.docker("exec", "count", "echo", "inside") == "inside"
    waiter = subprocess.Popen(["docker", "--host", engine.host, "wait", "count"], stdout=subprocess.PIPE, text=True)
    engine.docker("stop", "-t", "0", "count")
    assert waiter.communicate(timeout=180)[0].strip() == "137"
    assert int((following + [int(line) for line in follower.communicate(timeout=180)[0].split()])[-1]) > following[-1]
    numbers = [int(line) for line in engine.docker("logs", "count").split()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert engine.log.read_text().count("1 container was kept by an engine before this one and is taken over\n") == 3
    engine.docker("rm", "count")


def wait_for_more(engine: Engine) -> None:
    seen = len(engine.docker("logs", "count").split())
    until(lambda: len(engine.docker("logs", "count").split()) > seen + 20)


def test_what_ended_meanwhile_is_known(engine: Engine) -> None:
    gate = "mkfifo /go; read line < /go; exit"
    run = ("run", "-d", "--network", "none")
    engine.docker(*run, "--name", "seven", "busybox", "sh", "-c", f"{gate} 7")
    engine.docker(*run, "--name", "gone", "--rm", "-v", "/data", "busybox", "sh", "-c", f"{gate} 0")
    engine.docker(*run, "--name", "again", "--restart", "on-failure:5", "busybox", "sh", "-c", f"test -p /go && exec sleep 1000; {gate} 9")
    engine.docker(*run, "--name", "killed", "busybox", "sleep", "1000")
    pids = {name: engine.docker("inspect", "-f", "{{.State.Pid}}", name) for name in ("seven", "gone", "again")}
    id_of_killed = engine.docker("inspect", "-f", "{{.Id}}", "killed")
    for pid in pids.values():
        until(Path(f"/proc/{pid}/root/go").exists)
    engine.kill()
    for pid in pids.values():
        Path(f"/proc/{pid}/root/go").write_text("x\n")
    for folder, keeper in engine.keepers().items():
        if folder.name == id_of_killed:
            os.kill(keeper.pid, signal.SIGKILL)
    until(lambda: not engine.keepers())
    engine.start("--keep")
    assert engine.docker("wait", "seven", "killed") == "7\n137"
    assert engine.docker("ps", "-aq", "--filter", "name=gone") == ""
    assert engine.docker("volume", "ls", "-q") == ""
    until(lambda: engine.docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "again") == "true 1")
    engine.docker("rm", "-f", "seven", "again", "killed")


def test_networks_names_and_ports_are_restored(engine: Engine) -> None:
    engine.docker("network", "create", "app")
    serve = "echo hello > /tmp/i; exec httpd -f -p 80 -h /tmp"
    engine.docker("run", "-d", "--name", "web", "--network", "app", "-p", "127.0.0.1::80", "busybox", "sh", "-c", serve)
    engine.docker("run", "-d", "--name", "beside", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "client", "--network", "app", "busybox", "sleep", "1000")
    engine.docker("network", "connect", "app", "beside")
    port = int(engine.docker("port", "web", "80/tcp").rpartition(":")[2])
    before = engine.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "web", "client", "beside")
    until(lambda: b"hello" in ask(port))
    engine.kill()
    with socket.create_connection(("127.0.0.1", port), 60) as waiting:  # while no engine is there
        waiting.sendall(b"GET /i HTTP/1.0\r\n\r\n")
        engine.start("--keep")
        assert read_all(waiting).endswith(b"hello\n")
    assert b"hello" in ask(port)
    assert engine.docker("port", "web", "80/tcp") == f"127.0.0.1:{port}"
    found = engine.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "web", "client", "beside")
    assert found == before
    for name in ("client", "beside"):
        assert engine.docker("exec", name, "wget", "-qO-", "http://web/i") == "hello"
    assert engine.docker("run", "--rm", "--network", "app", "busybox", "wget", "-qO-", "http://web/i") == "hello"
    with socket.create_server(("0.0.0.0", 0)) as outside:  # tcp leads out as before
        place = f"http://host.docker.internal:{outside.getsockname()[1]}/"
        fetch = subprocess.Popen(["docker", "--host", engine.host, "exec", "client", "wget", "-qO-", place], stdout=subprocess.PIPE)
        outside.settimeout(60)
        guest, _ = outside.accept()
        with guest:
            guest.recv(1 << 16)
            guest.sendall(b"HTTP/1.0 200 OK\r\n\r\noutside")
        assert fetch.communicate(timeout=180)[0] == b"outside"
    engine.docker("network", "disconnect", "app", "beside")
    engine.stop()
    engine.start("--keep")
    assert engine.docker("inspect", "-f", "{{len .NetworkSettings.Networks}}", "beside") == "1"
    assert engine.docker("exec", "client", "wget", "-qO-", "http://web/i") == "hello"
    engine.docker("rm", "-f", "web", "client", "beside")
    engine.docker("network", "rm", "app")
    until(lambda: not listens(port))
    engine.docker("run", "--rm", "busybox", "true")


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(b"GET /i HTTP/1.0\r\n\r\n")
        return read_all(client)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except ConnectionRefusedError:
        return False
    return True


def test_without_keep_they_end_with_the_engine(engine: Engine) -> None:
    engine.docker("run", "-d", "--name", "sleeper", "--network", "none", "busybox", "sleep", "1000")
    engine.kill()
    engine.start()
    said = "1 container was kept by an engine before this one and is taken over; without --keep it ends with this engine\n"
    until(lambda: said in engine.log.read_text())
    assert engine.docker("ps", "-q") != ""
    engine.kill()
    until(lambda: not engine.keepers())
    engine.start()
    assert engine.docker("wait", "sleeper") == "137"


def test_engines_that_come_and_go_leave_no_descriptors(engine: Engine) -> None:
    def opened() -> tuple[int, ...]:
        assert engine.process is not None
        pids = [engine.process.pid, *(keeper.pid for keeper in engine.keepers().values())]
        return tuple(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)

    engine.docker("run", "-d", "--name", "kept", "-p", "127.0.0.1::80", "-i", "busybox", "cat")
    counts = set()
    for _ in range(3):
        engine.kill()
        engine.start("--keep")
        engine.docker("exec", "kept", "true")
        engine.docker("run", "--rm", "busybox", "true")
        until(lambda: len(engine.keepers()) == 1)
        counts.add(opened()[1:])
    assert len(counts) == 1
    engine.docker("rm", "-f", "kept")
