"""Containers that outlive their engine, one engine after the other in this process. They really run: root and busybox are needed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.sandbox import kept
from lamina.server.daemon import Daemon, Taken
from lamina.server.errors import ClientGone
from lamina.server.http.messages import Answer
from lamina.store.gc import collect_garbage
from lamina.testing import bases
from lamina.testing.engineapi import Client, call, daemon_at, document, stream

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A store with an image; what is kept in it ends with the test."""
    with daemon_at(tmp_path / "root") as daemon:
        stream(daemon, "POST", "/images/create?fromSrc=-&repo=busybox", bases.busybox_tar(tmp_path / "base.tar").read_bytes())
    yield tmp_path / "root"
    for folder, keeper in [each for place in tmp_path.glob("root/engines/*/containers") for each in kept.running_in(place).items()]:
        kept.end(folder, keeper)


def start(daemon: Daemon, *command: str, host: dict[str, Any] | None = None, **more: Any) -> str:
    body = {"Image": "busybox", "Cmd": command, "StopSignal": "SIGKILL", "HostConfig": {"NetworkMode": "none", **(host or {})}, **more}
    identifier = str(document(daemon, "POST", "/containers/create", body, 201)["Id"])
    reply = call(daemon, "POST", f"/containers/{identifier}/start")
    assert isinstance(reply, Answer)
    assert reply.status == 204, reply.body
    return identifier


def state(daemon: Daemon, identifier: str) -> dict[str, Any]:
    found: dict[str, Any] = document(daemon, "GET", f"/containers/{identifier}/json")["State"]
    return found


def wait(daemon: Daemon, identifier: str) -> int:
    return int(json.loads(stream(daemon, "POST", f"/containers/{identifier}/wait"))["StatusCode"])


def unframed(data: bytes) -> bytes:
    found = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        found, data = found + data[8 : 8 + length], data[8 + length :]
    return found


def logs(daemon: Daemon, identifier: str, query: str = "stdout=1&stderr=1") -> bytes:
    return unframed(stream(daemon, "GET", f"/containers/{identifier}/logs?{query}"))


def until(true: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether it is gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def folder_of(root: Path, identifier: str) -> Path:
    return next(root.glob(f"engines/*/containers/{identifier}"))


def keeper_of(root: Path, identifier: str) -> kept.Keeper:
    found = kept.find(folder_of(root, identifier))
    assert found is not None
    return found


WAITS = "rm -f /go; mkfifo /go; echo one; read line < /go; echo two >&2; exit 5"


def go(daemon: Daemon, identifier: str) -> None:
    with open(f"/proc/{state(daemon, identifier)['Pid']}/root/go", "w") as gate:
        gate.write("x\n")


def run_inside(daemon: Daemon, identifier: str, *command: str) -> int:
    made = document(daemon, "POST", f"/containers/{identifier}/exec", {"AttachStdout": True, "Cmd": command}, 201)["Id"]
    stream(daemon, "POST", f"/exec/{made}/start", {"Detach": False})
    return int(document(daemon, "GET", f"/exec/{made}/json")["ExitCode"])


def test_it_runs_on_and_the_next_engine_has_it(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sh", "-c", WAITS)
        pid = state(daemon, identifier)["Pid"]
        until(lambda: logs(daemon, identifier) == b"one\n")
    with daemon_at(root, keep=True) as daemon:
        assert daemon.containers.taken_over == 1
        assert (state(daemon, identifier)["Status"], state(daemon, identifier)["Pid"]) == ("running", pid)
        assert logs(daemon, identifier) == b"one\n"
        assert document(daemon, "GET", f"/containers/{identifier}/top")["Processes"]
        assert json.loads(stream(daemon, "GET", f"/containers/{identifier}/stats?stream=0&one-shot=1"))["pids_stats"]["current"] >= 1
        assert run_inside(daemon, identifier, "test", "-p", "/go") == 0
        go(daemon, identifier)
        assert wait(daemon, identifier) == 5
        assert logs(daemon, identifier) == b"one\ntwo\n"
        until(lambda: kept.find(folder_of(root, identifier)) is None)
        assert not (folder_of(root, identifier) / "exit.json").exists()
        assert wait_again(daemon, identifier) == 5


def wait_again(daemon: Daemon, identifier: str) -> int:
    call(daemon, "POST", f"/containers/{identifier}/start")
    until(lambda: logs(daemon, identifier).endswith(b"two\none\n"))
    go(daemon, identifier)
    return wait(daemon, identifier)


def test_what_it_does_while_no_engine_is_there_is_known(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sh", "-c", WAITS)
        until(lambda: logs(daemon, identifier) == b"one\n")
        pid = state(daemon, identifier)["Pid"]
    with open(f"/proc/{pid}/root/go", "w") as gate:  # no engine can tell the pid now
        gate.write("x\n")
    until(lambda: kept.find(folder_of(root, identifier)) is None)
    with daemon_at(root, keep=True) as daemon:
        found = state(daemon, identifier)
        assert (found["Status"], found["ExitCode"], found["Error"]) == ("exited", 5, "")
        assert logs(daemon, identifier) == b"one\ntwo\n"
        assert wait(daemon, identifier) == 5
    with daemon_at(root) as daemon:
        assert state(daemon, identifier) == found


def test_one_that_is_to_go_and_ended_meanwhile_is_gone_with_its_volume(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60", host={"AutoRemove": True}, Volumes={"/data": {}})
        assert len(daemon.volumes.all()) == 1
        pid = state(daemon, identifier)["Pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: kept.find(folder_of(root, identifier)) is None)
    with daemon_at(root, keep=True) as daemon:
        assert document(daemon, "GET", "/containers/json?all=1") == []
        assert daemon.volumes.all() == []
        assert list(root.glob("engines/*/containers/*")) == []


def test_a_policy_starts_again_what_ended_meanwhile(root: Path) -> None:
    from lamina.server.containers.running import resume

    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}
    with daemon_at(root, keep=True) as daemon:
        failed, done = start(daemon, "sh", "-c", WAITS, host=policy), start(daemon, "sleep", "60", host=policy)
        until(lambda: logs(daemon, failed) == b"one\n")
        pid, other = state(daemon, failed)["Pid"], state(daemon, done)["Pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: kept.find(folder_of(root, failed)) is None)
    with daemon_at(root, keep=True) as daemon:
        resume(daemon)
        until(lambda: state(daemon, failed)["Status"] == "running")
        assert state(daemon, failed)["Pid"] != pid
        assert state(daemon, done)["Pid"] == other


def test_a_keeper_that_is_killed_takes_its_container_along(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        pid = state(daemon, identifier)["Pid"]
        keeper = keeper_of(root, identifier)
        os.kill(keeper.pid, signal.SIGKILL)
        assert wait(daemon, identifier) == 137
        other = start(daemon, "sleep", "60")
    os.kill(keeper_of(root, other).pid, signal.SIGKILL)
    until(lambda: kept.find(folder_of(root, other)) is None)
    until(lambda: ended(pid))
    with daemon_at(root, keep=True) as daemon:
        assert (state(daemon, other)["Status"], state(daemon, other)["ExitCode"]) == ("exited", 137)


def test_without_keep_it_is_taken_over_and_ends_with_the_engine(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        pid = state(daemon, identifier)["Pid"]
    with daemon_at(root) as daemon:
        assert daemon.containers.taken_over == 1
        assert state(daemon, identifier)["Pid"] == pid
    assert kept.find(folder_of(root, identifier)) is None
    with daemon_at(root) as daemon:
        assert state(daemon, identifier)["ExitCode"] == 137


def test_input_stays_open_and_can_be_typed_to_again(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "cat", OpenStdin=True)
        type_in(daemon, identifier, b"one\n")
    with daemon_at(root, keep=True) as daemon:
        type_in(daemon, identifier, b"two\n")
        assert logs(daemon, identifier) == b"one\ntwo\n"
        stdin = daemon.containers.find(identifier).stdin
        assert stdin is not None
        stdin.close()
        assert wait(daemon, identifier) == 0


def type_in(daemon: Daemon, identifier: str, typed: bytes) -> None:
    """As a client that leaves when it is in the log."""
    client = Client(typed, stays=True)

    def attach() -> None:
        with contextlib.suppress(ClientGone):
            stream(daemon, "POST", f"/containers/{identifier}/attach?stdin=1&stream=1", None, client)

    thread = threading.Thread(target=attach)
    thread.start()
    until(lambda: logs(daemon, identifier).endswith(typed))
    client.leave()
    thread.join(90)
    assert not thread.is_alive()


def test_a_terminal_goes_on(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sh", "-c", "tty; read line; echo got $line; stty size", Tty=True, OpenStdin=True)
        until(lambda: b"pts" in stream(daemon, "GET", f"/containers/{identifier}/logs?stdout=1"))
    with daemon_at(root, keep=True) as daemon:
        call(daemon, "POST", f"/containers/{identifier}/resize?h=33&w=77")
        client = Client(b"hello\r", stays=True)
        thread = threading.Thread(
            target=stream, args=(daemon, "POST", f"/containers/{identifier}/attach?stdin=1&stdout=1&stream=1", None, client)
        )
        thread.start()
        assert wait(daemon, identifier) == 0
        thread.join(90)
        assert not thread.is_alive()
        assert stream(daemon, "GET", f"/containers/{identifier}/logs?stdout=1").endswith(b"got hello\r\n33 77\r\n")
        client.leave()


def test_paused_stays_paused(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        call(daemon, "POST", f"/containers/{identifier}/pause")
    with daemon_at(root, keep=True) as daemon:
        assert state(daemon, identifier)["Status"] == "paused"
        call(daemon, "POST", f"/containers/{identifier}/unpause")
        call(daemon, "POST", f"/containers/{identifier}/stop")
        assert state(daemon, identifier)["ExitCode"] == 137


def test_copies_go_in_and_out_after_the_change(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sh", "-c", "echo inside > /file; mkfifo /go; read line < /go")
        until(lambda: (folder_of(root, identifier) / "diff/go").exists())
    with daemon_at(root, keep=True) as daemon:
        tar = stream(daemon, "GET", f"/containers/{identifier}/archive?path=/file")
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            found = archive.extractfile("file")
            assert found is not None
            assert found.read() == b"inside\n"


def test_the_log_goes_on_over_its_files_and_nobody_who_is_attached_loses_a_line(root: Path) -> None:
    count = 3000
    small = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "4k", "max-file": "3"}}}
    script = f"read line; i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; done; mkfifo /go; read line < /go; echo end"
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sh", "-c", script, host=small, OpenStdin=True)
        client = Client(b"x\n", stays=True)

        def attach() -> None:
            with contextlib.suppress(ClientGone):
                stream(daemon, "POST", f"/containers/{identifier}/attach?stdin=1&stdout=1&stream=1", None, client)

        thread = threading.Thread(target=attach)
        thread.start()
        until(lambda: unframed(bytes(client.got)).endswith(b"%d\n" % count), 60)
        client.leave()
        thread.join(90)
        assert unframed(bytes(client.got)) == b"".join(b"%d\n" % number for number in range(1, count + 1))
    with daemon_at(root, keep=True) as daemon:
        until(lambda: (folder_of(root, identifier) / "diff/go").exists())
        go(daemon, identifier)
        assert wait(daemon, identifier) == 0
        lines = logs(daemon, identifier).split()
        assert lines[-1] == b"end"
        numbers = [int(line) for line in lines[:-1]]
        assert numbers == list(range(numbers[0], count + 1))
        assert len(list(folder_of(root, identifier).glob("log*"))) <= 3


def test_its_layers_stay_while_no_engine_is_there(root: Path) -> None:
    from lamina.layer.flavour import Flavour
    from lamina.store.local import LocalStore

    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        layers = daemon.containers.find(identifier).record.layers
    with LocalStore.open(root, Flavour("trusted"), now=time.time) as store:
        store.images.remove(store.images.all()[0].id, force=True)
        collect_garbage(store)
        assert {row.id for row in store.layers.rows()} >= set(layers)
    with daemon_at(root, keep=True) as daemon:
        call(daemon, "POST", f"/containers/{identifier}/kill")
        assert wait(daemon, identifier) == 137
    with LocalStore.open(root, Flavour("trusted"), now=time.time) as store:
        collect_garbage(store)
        assert not {row.id for row in store.layers.rows()} & set(layers)
        assert [path.name for path in store.layout.leases.iterdir()] == [store.lease.id]


def test_its_way_in_is_ours_alone(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        folder = folder_of(root, identifier)
        assert stat.S_IMODE((folder / "keeper.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "keeper").stat().st_mode) == 0o600


def test_nothing_of_the_keeper_is_in_the_container(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        for init in (False, True):
            identifier = start(daemon, "sleep", "60", host={"Init": init})
            first = state(daemon, identifier)["Pid"]
            for pid in daemon_pids(first):
                opened = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
                assert opened == ([] if init and pid == first else [0, 1, 2])


def daemon_pids(first: int) -> list[int]:
    from lamina.server.containers.processes import pids

    until(lambda: b"sleep" in Path(f"/proc/{pids(first)[-1]}/cmdline").read_bytes())
    return pids(first)


def test_a_reused_pid_is_never_taken_for_a_keeper(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        keeper = keeper_of(root, identifier)
        assert keeper.alive()
        other = kept.Keeper(os.getpid(), keeper.started)
        assert not other.alive()
        other.kill()
        assert kept.Keeper(keeper.pid, keeper.started + 1).alive() is False


def test_a_keeper_that_does_not_answer_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
    os.kill(keeper_of(root, identifier).pid, signal.SIGSTOP)
    monkeypatch.setattr(kept, "_PATIENCE", 0.2)  # not before: one that answers may take its time
    with daemon_at(root, keep=True) as daemon:
        assert state(daemon, identifier)["ExitCode"] == 137
    until(lambda: kept.find(folder_of(root, identifier)) is None)


def test_a_record_that_is_damaged_leaves_nothing_running(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        pid = state(daemon, identifier)["Pid"]
    (folder_of(root, identifier) / "container.json").write_bytes(b"{")
    with daemon_at(root, keep=True) as daemon:
        assert document(daemon, "GET", "/containers/json?all=1") == []
    until(lambda: ended(pid))


def test_a_store_that_is_deleted_ends_what_was_kept_in_it(root: Path) -> None:
    import shutil

    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "600")
        keeper = keeper_of(root, identifier)
    shutil.rmtree(root)
    until(lambda: ended(keeper.pid))


def test_strangers_at_the_door_do_no_harm(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
    place = os.open(folder_of(root, identifier), os.O_PATH)
    for nonsense in (b"", b"S", b"\xff" * 4000, b"N\0\0\0\2{}", b"H\0\0\0\1x", b"A\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(f"/proc/self/fd/{place}/keeper.sock")
            stranger.sendall(nonsense)
    os.close(place)
    with daemon_at(root, keep=True) as daemon:
        assert state(daemon, identifier)["Status"] == "running"


def test_a_failed_start_keeps_nothing(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        body = {"Image": "busybox", "Cmd": ["nosuch"], "HostConfig": {"NetworkMode": "none"}}
        identifier = document(daemon, "POST", "/containers/create", body, 201)["Id"]
        reply = call(daemon, "POST", f"/containers/{identifier}/start")
        assert isinstance(reply, Answer)
        assert (reply.status, state(daemon, identifier)["ExitCode"]) == (400, 127)
        until(lambda: kept.find(folder_of(root, identifier)) is None)
        assert len(list((root / "leases").iterdir())) == 1


def test_two_engines_cannot_keep_at_one_address(root: Path) -> None:
    with daemon_at(root, keep=True), pytest.raises(Taken, match="another engine"), daemon_at(root, keep=True):
        pass


def test_many_descriptors_come_over(root: Path) -> None:
    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sleep", "60")
        process = daemon.containers.find(identifier).process
        assert isinstance(process, kept.KeptProcess)
        with open(os.devnull, "rb") as null:
            for number in range(250):
                process.hold(f"n{number}", null.fileno())
    before = len(os.listdir("/proc/self/fd"))
    process, _, held = kept.take_over(folder_of(root, identifier), keeper_of(root, identifier))
    assert len(held) == 251
    assert {"lease", "n0", "n249"} <= set(held)
    for descriptor in held.values():
        os.close(descriptor)
    process.let_go()
    process.wait()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_runs_without_an_engine_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lamina.cli.main import run
    from lamina.server.places import waiting

    with daemon_at(root, keep=True, place="unix:///x.sock") as daemon:
        identifier = start(daemon, "sleep", "60")
        assert waiting(root) == []
    assert [(each.place, each.containers) for each in waiting(root)] == [("unix:///x.sock", (identifier,))]
    assert run(["--root", str(root), "doctor"]) == 0
    told = capsys.readouterr().out
    assert f"1 container runs on without an engine: {identifier[:12]}\nlamina serve --keep --host unix:///x.sock takes it over" in told
    with daemon_at(root, place="unix:///x.sock"):
        assert waiting(root) == []
    until(lambda: waiting(root) == [])  # the keeper ends of itself


def test_checks_and_prunes_take_nothing_from_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lamina.cli.main import run

    with daemon_at(root, keep=True) as daemon:
        identifier = start(daemon, "sh", "-c", "echo kept > /file; exec sleep 60")
        until((folder_of(root, identifier) / "diff/file").exists)
    for command in (["check"], ["cache", "prune", "--all"], ["check"]):
        assert run(["--root", str(root), *command]) == 0, capsys.readouterr()
    with daemon_at(root, keep=True) as daemon:
        assert run_inside(daemon, identifier, "grep", "-q", "kept", "/file") == 0
        assert run_inside(daemon, identifier, "ls", "/bin/busybox") == 0
