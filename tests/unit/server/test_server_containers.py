"""Containers through the handlers, without a socket. They really run: root and busybox are needed."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer, Stream
from lamina.testing import bases
from lamina.testing.engineapi import Client, call, daemon_at, document, stream

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_at(tmp_path / "root") as daemon:
        data = bases.busybox_tar(tmp_path / "base.tar").read_bytes()
        stream(daemon, "POST", "/images/create?fromSrc=-&repo=busybox", data)
        yield daemon


def create(daemon: Daemon, *command: str, **more: Any) -> str:
    return str(document(daemon, "POST", "/containers/create", {"Image": "busybox", "Cmd": command, **more}, 201)["Id"])


def status(reply: object) -> int:
    assert isinstance(reply, Answer), reply
    return reply.status


def run(daemon: Daemon, identifier: str) -> int:
    assert status(call(daemon, "POST", f"/containers/{identifier}/start")) == 204
    return int(json.loads(stream(daemon, "POST", f"/containers/{identifier}/wait"))["StatusCode"])


def unframed(data: bytes) -> tuple[bytes, bytes]:
    """(stdout, stderr)."""
    found = {1: b"", 2: b""}
    while data:
        length = int.from_bytes(data[4:8], "big")
        found[data[0]] += data[8 : 8 + length]
        data = data[8 + length :]
    return found[1], found[2]


def logs(daemon: Daemon, identifier: str, query: str = "stdout=1&stderr=1") -> tuple[bytes, bytes]:
    return unframed(stream(daemon, "GET", f"/containers/{identifier}/logs?{query}"))


def test_output_and_exit_code(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert run(daemon, identifier) == 7
    assert logs(daemon, identifier) == (b"out\n", b"err\n")
    assert logs(daemon, identifier, "stdout=1&tail=0") == (b"", b"")
    state = document(daemon, "GET", f"/containers/{identifier}/json")["State"]
    assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 7, False)


def test_a_command_that_is_not_there(daemon: Daemon) -> None:
    identifier = create(daemon, "nosuch")
    reply = call(daemon, "POST", f"/containers/{identifier}/start")
    assert status(reply) == 400
    assert isinstance(reply, Answer)
    assert b"executable file not found" in reply.body
    assert document(daemon, "GET", f"/containers/{identifier}/json")["State"]["ExitCode"] == 127


def test_stdin_that_was_typed_before_the_start_is_read(daemon: Daemon) -> None:
    identifier = create(daemon, "cat", OpenStdin=True, StdinOnce=True)
    client = Client(b"typed\n")
    reader = threading.Thread(
        target=stream, args=(daemon, "POST", f"/containers/{identifier}/attach?stream=1&stdin=1&stdout=1", None, client)
    )
    reader.start()
    assert run(daemon, identifier) == 0
    reader.join(90)
    assert not reader.is_alive()
    assert unframed(bytes(client.got)) == (b"typed\n", b"")


def test_a_client_that_leaves_ends_its_attach_alone(daemon: Daemon) -> None:
    identifier = create(daemon, "sleep", "600")
    call(daemon, "POST", f"/containers/{identifier}/start")
    client = Client(stays=True)

    def attach() -> None:
        try:
            stream(daemon, "POST", f"/containers/{identifier}/attach?stream=1&stdout=1", None, client)
        except Exception:
            pass

    reader = threading.Thread(target=attach)
    reader.start()
    client.leave()
    reader.join(90)
    assert not reader.is_alive()
    assert document(daemon, "GET", f"/containers/{identifier}/json")["State"]["Running"]


def test_a_terminal(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "tty; test -t 0 && echo yes", Tty=True)
    assert run(daemon, identifier) == 0
    assert stream(daemon, "GET", f"/containers/{identifier}/logs?stdout=1") == b"/dev/pts/0\r\nyes\r\n"


def test_commands_inside(daemon: Daemon) -> None:
    identifier = create(daemon, "sleep", "600", Env=["A=1"])
    call(daemon, "POST", f"/containers/{identifier}/start")
    body = {
        "AttachStdin": True,
        "AttachStdout": True,
        "Cmd": ["sh", "-c", "cat; echo $A-$B; id -u; exit 4"],
        "Env": ["B=2"],
        "User": "1000",
    }
    made = document(daemon, "POST", f"/containers/{identifier}/exec", body, 201)["Id"]
    assert document(daemon, "GET", f"/exec/{made}/json")["ExitCode"] is None
    found = stream(daemon, "POST", f"/exec/{made}/start", {"Detach": False}, Client(b"in\n"))
    assert unframed(found) == (b"in\n1-2\n1000\n", b"")
    ended = document(daemon, "GET", f"/exec/{made}/json")
    assert (ended["ExitCode"], ended["Running"]) == (4, False)
    call(daemon, "POST", f"/containers/{identifier}/kill")
    document(daemon, "POST", f"/containers/{identifier}/exec", {"Cmd": ["true"]}, 409)


def test_states_and_their_refusals(daemon: Daemon) -> None:
    identifier = create(daemon, "sleep", "600")
    for verb, expected in (
        ("start", 204),
        ("start", 304),
        ("pause", 204),
        ("pause", 409),
        ("unpause", 204),
        ("kill", 204),
        ("kill", 409),
        ("stop", 304),
    ):
        assert status(call(daemon, "POST", f"/containers/{identifier}/{verb}")) == expected, verb
    assert status(call(daemon, "POST", f"/containers/{identifier}/start")) == 204
    assert status(call(daemon, "DELETE", f"/containers/{identifier}")) == 409
    assert status(call(daemon, "DELETE", f"/containers/{identifier}?force=1")) == 204
    assert status(call(daemon, "DELETE", f"/containers/{identifier}")) == 404


def test_auto_remove_answers_a_client_that_waits_for_it(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "exit 6", HostConfig={"AutoRemove": True})
    waiting = call(daemon, "POST", f"/containers/{identifier}/wait?condition=removed")
    assert isinstance(waiting, Stream)
    call(daemon, "POST", f"/containers/{identifier}/start")
    client = Client()
    waiting.run(client)
    assert json.loads(client.got)["StatusCode"] == 6
    document(daemon, "GET", f"/containers/{identifier}/json", status=404)


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("running", [False, True])
def test_copies_in_and_out(daemon: Daemon, running: bool) -> None:
    identifier = create(daemon, "sleep", "600")
    if running:
        call(daemon, "POST", f"/containers/{identifier}/start")
    place = f"/containers/{identifier}/archive?path="
    assert status(call(daemon, "PUT", place + "/tmp", archive({"d/f": b"data\n"}))) == 200
    head = call(daemon, "HEAD", place + "/tmp/d")
    assert isinstance(head, Answer)
    stat = json.loads(base64.b64decode(dict(head.headers)["X-Docker-Container-Path-Stat"]))
    assert stat["name"] == "d"
    assert stat["mode"] & 1 << 31
    with tarfile.open(fileobj=io.BytesIO(stream(daemon, "GET", place + "/tmp/d"))) as found:
        assert found.getnames() == ["d", "d/f"]
    assert status(call(daemon, "PUT", place + "/tmp/d/f", archive({"x": b""}))) == 400
    assert status(call(daemon, "GET", place + "/nosuch")) == 404


def test_a_copy_does_not_leave_the_container_through_a_link(daemon: Daemon, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    identifier = create(daemon, "ln", "-s", str(outside), "/trap")
    assert run(daemon, identifier) == 0
    reply = call(daemon, "PUT", f"/containers/{identifier}/archive?path=/trap", archive({"f": b"data"}))
    assert status(reply) == 404
    call(daemon, "PUT", f"/containers/{identifier}/archive?path=/", archive({"../../f": b"data"}))
    assert not any(outside.iterdir())


def test_what_a_container_changed_and_an_image_of_it(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "echo x > /new; rm /etc/group; echo y >> /etc/passwd")
    assert run(daemon, identifier) == 0
    found = {row["Path"]: row["Kind"] for row in document(daemon, "GET", f"/containers/{identifier}/changes")}
    assert found == {"/new": 1, "/etc": 0, "/etc/group": 2, "/etc/passwd": 0}
    image = document(daemon, "POST", f'/commit?container={identifier}&repo=made&comment=c&changes=CMD ["cat","/new"]', {}, 201)["Id"]
    assert document(daemon, "GET", "/images/made/json")["Id"] == image
    again = document(daemon, "POST", "/containers/create", {"Image": "made"}, 201)["Id"]
    assert run(daemon, again) == 0
    assert logs(daemon, again)[0] == b"x\n"


def test_mounts_and_limits(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("data")
    host = {
        "Binds": [f"{tmp_path}:/m:ro", "vol:/v"], "Tmpfs": {"/t": ""}, "ReadonlyRootfs": True, "CapDrop": ["ALL"],
        "Ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}],
    }  # fmt: skip
    script = "cat /m/f; touch /m/x /x 2>/dev/null || echo ' ro'; touch /t/a /v/a && echo rw; ulimit -n; grep CapEff /proc/self/status"
    identifier = create(daemon, "sh", "-c", script, HostConfig=host)
    assert run(daemon, identifier) == 0
    assert logs(daemon, identifier)[0] == b"data ro\nrw\n64\nCapEff:\t0000000000000000\n"
    assert (daemon.volumes.path("vol") / "a").exists()
    document(daemon, "DELETE", "/volumes/vol", status=409)


def test_a_restart_of_the_engine_knows_what_was(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with daemon_at(root) as daemon:
        stream(daemon, "POST", "/images/create?fromSrc=-&repo=busybox", bases.busybox_tar(tmp_path / "base.tar").read_bytes())
        identifier = create(daemon, "sh", "-c", "echo kept; sleep 600")
        call(daemon, "POST", f"/containers/{identifier}/start")
        pid = document(daemon, "GET", f"/containers/{identifier}/json")["State"]["Pid"]
    assert not os.path.exists(f"/proc/{pid}")
    with daemon_at(root) as daemon:
        state = document(daemon, "GET", f"/containers/{identifier}/json")["State"]
        assert state["Status"] == "exited"
        assert logs(daemon, identifier)[0] in (b"kept\n", b"")


def test_an_image_that_a_container_has_is_not_removed_from_under_it(daemon: Daemon) -> None:
    identifier = create(daemon, "true")
    document(daemon, "DELETE", "/images/busybox", status=409)
    assert document(daemon, "DELETE", "/images/busybox?force=1") == [{"Untagged": "busybox:latest"}]
    assert run(daemon, identifier) == 0


def test_a_published_port_leads_inside(daemon: Daemon) -> None:
    import socket

    host = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
    identifier = create(daemon, "sh", "-c", "echo ready; echo hello | nc -l -p 80", HostConfig=host)
    call(daemon, "POST", f"/containers/{identifier}/start")
    for line in (b"ready\n",):
        followed = call(daemon, "GET", f"/containers/{identifier}/logs?stdout=1&follow=1")
        assert isinstance(followed, Stream)
        client = Client()
        reader = threading.Thread(target=followed.run, args=(client,), daemon=True)
        reader.start()
        while line not in client.got and reader.is_alive():
            reader.join(0.01)
    port = document(daemon, "GET", f"/containers/{identifier}/json")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    received = b""
    while not received:  # nc has said "ready" just before it listens
        with socket.create_connection(("127.0.0.1", int(port)), 90) as connection:
            received = connection.recv(64)
    assert received == b"hello\n"


def test_what_later_apis_ask_for_and_is_not_kept_is_a_warning(daemon: Daemon, tmp_path: Path) -> None:
    def warned(**more: Any) -> list[str]:
        found: list[str] = document(daemon, "POST", "/v1.44/containers/create", {"Image": "busybox", "Cmd": ["true"], **more}, 201)[
            "Warnings"
        ]
        return [text.partition(" is not kept")[0] for text in found]

    address = "02:42:ac:11:00:99"
    assert warned(MacAddress=address) == ["the MAC address"]
    assert warned(NetworkingConfig={"EndpointsConfig": {"bridge": {"MacAddress": address}}}) == ["the MAC address"]
    assert warned(NetworkingConfig={"EndpointsConfig": {"bridge": {"MacAddress": ""}}}) == []
    mount = {"Type": "bind", "Source": str(tmp_path), "Target": "/m", "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True}}
    assert warned(HostConfig={"Mounts": [mount]}) == ["bind-recursive"]
    assert warned(HostConfig={"Mounts": [{**mount, "BindOptions": {"Propagation": "rprivate"}}]}) == []


def test_while_it_starts_health_is_asked_for_more_often(daemon: Daemon) -> None:
    second = 10**9
    check = {"Test": ["CMD", "true"], "Interval": 3600 * second, "StartInterval": second // 20, "StartPeriod": 3000 * second}
    identifier = create(daemon, "sleep", "1000", Healthcheck=check)
    assert status(call(daemon, "POST", f"/containers/{identifier}/start")) == 204
    container = daemon.containers.find(identifier)
    pause = threading.Event()
    for _ in range(6000):  # a minute: without StartInterval it were an hour
        if container.health is not None and container.health["Status"] == "healthy":
            break
        pause.wait(0.01)
    else:
        raise AssertionError(container.health)
    assert document(daemon, "GET", f"/containers/{identifier}/json")["Config"]["Healthcheck"] == check
    assert status(call(daemon, "POST", f"/containers/{identifier}/kill")) == 204
