"""Containers in networks: who reaches whom, by which name, and what leads out. All of it in namespaces of the engine and on loopback."""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from lamina.sandbox.networks import inside
from lamina.sandbox.protocols import SandboxSetupFailed
from lamina.server import outward, wiring
from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer
from lamina.testing import bases
from lamina.testing.engineapi import call, daemon_at, document, stream

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


def create(daemon: Daemon, *command: str, name: str = "", network: str = "bridge", aliases: tuple[str, ...] = (), **host: Any) -> str:
    body = {
        "Image": "busybox", "Cmd": command, "StopSignal": "SIGKILL", "HostConfig": {"NetworkMode": network, **host},
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": aliases}}},
    }  # fmt: skip
    return str(document(daemon, "POST", f"/containers/create?name={name}", body, 201)["Id"])


def serve(daemon: Daemon, text: str, **where: Any) -> str:
    """A container that answers `text` at port 80, listening when this returns."""
    identifier = create(daemon, "sh", "-c", f"echo {text} > /tmp/i; httpd -p 80 -h /tmp; echo up; exec sleep 1000", **where)
    call(daemon, "POST", f"/containers/{identifier}/start")
    assert b"up" in _first_output(daemon, identifier)
    return identifier


def _first_output(daemon: Daemon, identifier: str) -> bytes:
    container = daemon.containers.find(identifier)
    container.log.wait(0, lambda: container.ended >= container.run)
    return stream(daemon, "GET", f"/containers/{identifier}/logs?stdout=1&stderr=1")


def ask(daemon: Daemon, script: str, **where: Any) -> tuple[int, str]:
    """(exit code, what it said) of a script in a new container."""
    identifier = create(daemon, "sh", "-c", script, **where)
    reply = call(daemon, "POST", f"/containers/{identifier}/start")
    assert isinstance(reply, Answer)
    assert reply.status == 204, reply.body
    code = int(json.loads(stream(daemon, "POST", f"/containers/{identifier}/wait"))["StatusCode"])
    data = stream(daemon, "GET", f"/containers/{identifier}/logs?stdout=1&stderr=1")
    text = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        text, data = text + data[8 : 8 + length], data[8 + length :]
    return code, text.decode()


def test_containers_of_a_network_reach_each_other_by_name_alias_and_id(daemon: Daemon) -> None:
    document(daemon, "POST", "/networks/create", {"Name": "front"}, 201)
    web = serve(daemon, "hello", name="web", network="front", aliases=("service",))
    code, text = ask(daemon, f"for n in web service {web[:12]} web.front WEB; do wget -qO- http://$n/i; done", network="front")
    assert (code, text) == (0, "hello\n" * 5)
    code, text = ask(daemon, "nslookup $(nslookup web | sed -n 's/^Address: //p') | grep name", network="front")
    assert "web.front" in text


def test_networks_are_apart(daemon: Daemon) -> None:
    for name in ("front", "back"):
        document(daemon, "POST", "/networks/create", {"Name": name}, 201)
    web = serve(daemon, "hello", name="web", network="front")
    address = document(daemon, "GET", f"/containers/{web}/json")["NetworkSettings"]["Networks"]["front"]["IPAddress"]
    assert ask(daemon, f"wget -qO- http://{address}/i", network="front") == (0, "hello\n")
    for other in ("back", "bridge", "none"):
        code, text = ask(daemon, f"wget -qO- http://{address}/i || wget -qO- http://web/i", network=other)
        assert code != 0
        assert "hello" not in text


def test_a_running_container_joins_and_leaves(daemon: Daemon) -> None:
    for name in ("front", "back"):
        document(daemon, "POST", "/networks/create", {"Name": name}, 201)
    web = serve(daemon, "hello", name="web", network="back")
    body = {"Container": "web", "EndpointConfig": {"Aliases": ["other"], "IPAMConfig": {}}}
    assert isinstance(reply := call(daemon, "POST", "/networks/front/connect", body), Answer)
    assert reply.status == 200
    assert ask(daemon, "wget -qO- http://other/i", network="front") == (0, "hello\n")
    members = document(daemon, "GET", "/networks/front")["Containers"]
    assert members[web]["IPv4Address"].endswith("/16")
    assert isinstance(reply := call(daemon, "POST", "/networks/front/connect", body), Answer)
    assert reply.status == 403
    call(daemon, "POST", "/networks/back/disconnect", {"Container": "web"})
    assert set(document(daemon, "GET", f"/containers/{web}/json")["NetworkSettings"]["Networks"]) == {"front"}
    assert ask(daemon, "wget -qO- http://web/i", network="front") == (0, "hello\n")
    assert ask(daemon, "wget -qO- http://web/i", network="back")[0] != 0


def test_an_address_can_be_asked_for_and_stays_over_a_restart(daemon: Daemon) -> None:
    document(daemon, "POST", "/networks/create", {"Name": "own", "IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}]}}, 201)
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "own"},
            "NetworkingConfig": {"EndpointsConfig": {"own": {"IPAMConfig": {"IPv4Address": "10.77.0.9"}}}}}  # fmt: skip
    identifier = document(daemon, "POST", "/containers/create", body, 201)["Id"]
    for verb in ("start", "restart?t=0"):
        call(daemon, "POST", f"/containers/{identifier}/{verb}")
        endpoint = document(daemon, "GET", f"/containers/{identifier}/json")["NetworkSettings"]["Networks"]["own"]
        assert (endpoint["IPAddress"], endpoint["Gateway"], endpoint["MacAddress"]) == ("10.77.0.9", "10.77.0.1", "02:42:0a:4d:00:09")


def test_a_network_of_another_container(daemon: Daemon) -> None:
    serve(daemon, "hello", name="web")
    assert ask(daemon, "wget -qO- http://127.0.0.1/i", network="container:web") == (0, "hello\n")
    identifier = create(daemon, "true", network="container:web")
    call(daemon, "POST", "/containers/web/kill")
    assert isinstance(reply := call(daemon, "POST", f"/containers/{identifier}/start"), Answer)
    assert reply.status == 409


def test_links_have_names_on_the_predefined_network(daemon: Daemon) -> None:
    serve(daemon, "hello", name="web")
    assert ask(daemon, "wget -qO- http://w/i", Links=["web:w"]) == (0, "hello\n")
    assert ask(daemon, "wget -qO- http://web/i")[0] != 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server on loopback, which stands for the machine as others see it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"machine\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setattr(outward, "own_address", lambda: "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def test_what_leads_out_and_what_does_not(daemon: Daemon, machine: int) -> None:
    script = f"wget -qO- http://machine:{machine}/"
    assert ask(daemon, script, ExtraHosts=["machine:host-gateway"]) == (0, "machine\n")
    document(daemon, "POST", "/networks/create", {"Name": "closed", "Internal": True}, 201)
    gateway = document(daemon, "GET", "/networks/closed")["IPAM"]["Config"][0]["Gateway"]
    code, text = ask(daemon, f"ip route; wget -qO- http://{gateway}:{machine}/", network="closed")
    assert code != 0
    assert "default" not in text
    assert "machine\n" not in text


def test_a_connection_out_is_made_again_from_here(daemon: Daemon, machine: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def where(self: wiring.Wiring, address: Any, port: int) -> tuple[str, int]:
        asked.append((str(address), port))
        return "127.0.0.1", machine

    monkeypatch.setattr(wiring.Wiring, "where", where)
    assert ask(daemon, "wget -qO- http://198.51.100.7:8080/") == (0, "machine\n")
    assert asked == [("198.51.100.7", 8080)]


def test_the_machine_s_loopback_and_other_containers_are_no_way_out(daemon: Daemon) -> None:
    document(daemon, "POST", "/networks/create", {"Name": "front"}, 201)
    web = serve(daemon, "hello", name="web", network="front")
    plug = daemon.containers.find(web).plugs["front"]
    for address in ("127.0.0.1", "127.0.0.53", "0.0.0.0", "224.0.0.1", plug.address):
        assert daemon.wiring.where(IPv4Address(address), 80) is None
    assert daemon.wiring.where(IPv4Address("198.51.100.1"), 80) == ("198.51.100.1", 80)
    gateway = daemon.wiring.where(IPv4Address(plug.gateway), 80)
    assert gateway is None or (isinstance(gateway, tuple) and not gateway[0].startswith("127."))


def test_udp_ports_are_published_too(daemon: Daemon) -> None:
    identifier = create(daemon, "sleep", "1000", PortBindings={"53/udp": [{"HostIp": "127.0.0.1"}]})
    call(daemon, "POST", f"/containers/{identifier}/start")
    port = document(daemon, "GET", f"/containers/{identifier}/json")["NetworkSettings"]["Ports"]["53/udp"][0]["HostPort"]

    def bound() -> socket.socket:
        made = socket.socket(type=socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", 53))
        made.settimeout(90)
        return made

    with (
        inside(f"/proc/self/fd/{daemon.containers.find(identifier).network}", bound) as server,
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as other,
    ):
        places = []
        for client, said in ((one, b"1"), (other, b"2")):
            client.settimeout(90)
            client.connect(("127.0.0.1", int(port)))
            client.send(said)
            data, place = server.recvfrom(64)
            assert data == said
            places.append(place)
        server.sendto(b"to 1", places[0])
        server.sendto(b"to 2", places[1])
        assert (one.recv(64), other.recv(64)) == (b"to 1", b"to 2")


def test_where_nothing_can_lead_out_containers_still_reach_each_other_and_the_engine_says_so(
    daemon: Daemon, machine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(rules: object) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr("lamina.sandbox.netlink.lead_in", refuse)
    document(daemon, "POST", "/networks/create", {"Name": "front"}, 201)
    serve(daemon, "hello", name="web", network="front")
    assert ask(daemon, "wget -qO- http://web/i", network="front") == (0, "hello\n")
    assert ask(daemon, f"wget -qO- http://machine:{machine}/", network="front", ExtraHosts=["machine:host-gateway"])[0] != 0
    assert [line for line in document(daemon, "GET", "/info")["Warnings"] if "nf_tables" in line]


def test_where_no_network_can_be_made_the_predefined_one_is_loopback_and_others_are_refused(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise SandboxSetupFailed("containers cannot have networks here: Operation not permitted", hint="x")

    monkeypatch.setattr("lamina.sandbox.switch.Switch", refuse)
    assert ask(daemon, "ls /sys/class/net") == (0, "lo\n")
    document(daemon, "POST", "/networks/create", {"Name": "front"}, 201)
    identifier = create(daemon, "true", network="front")
    assert isinstance(reply := call(daemon, "POST", f"/containers/{identifier}/start"), Answer)
    assert reply.status == 500
    assert b"cannot have networks here" in reply.body


def test_a_network_in_use_stays_and_a_removed_one_leaves_no_descriptor(daemon: Daemon) -> None:
    web = serve(daemon, "hello", name="web")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        document(daemon, "POST", "/networks/create", {"Name": "front"}, 201)
        other = serve(daemon, "x", name="other", network="front")
        assert isinstance(reply := call(daemon, "DELETE", "/networks/front"), Answer)
        assert reply.status == 403
        call(daemon, "DELETE", f"/containers/{other}?force=1")
        call(daemon, "DELETE", "/networks/front")
    deadline = time.monotonic() + 90  # what the last container had may be let go of by its threads
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    call(daemon, "DELETE", f"/containers/{web}?force=1")


@pytest.mark.parametrize(
    "body",
    [
        {"Name": "x", "EnableIPv6": True},
        {"Name": "x", "Driver": "overlay"},
        {"Name": "x", "Driver": "host"},
        {"Name": "../x"},
        {"Name": "bridge"},
    ],
)
def test_networks_that_are_refused(daemon: Daemon, body: dict[str, object]) -> None:
    reply = call(daemon, "POST", "/networks/create", body)
    assert isinstance(reply, Answer)
    assert reply.status >= 400


def test_the_gateway_has_one_hardware_address_for_good(daemon: Daemon) -> None:
    """Who asked for names just now must not lose them when a neighbour leaves."""
    document(daemon, "POST", "/networks/create", {"Name": "front"}, 201)
    gateway = document(daemon, "GET", "/networks/front")["IPAM"]["Config"][0]["Gateway"]
    code, text = ask(daemon, f"nslookup {gateway} {gateway} > /dev/null; grep '^{gateway} ' /proc/net/arp", network="front")
    assert code == 0
    assert text.split()[3] == "02:42:" + ":".join(f"{int(part):02x}" for part in gateway.split("."))


def test_networks_and_volumes_tell_of_containers(daemon: Daemon) -> None:
    document(daemon, "POST", "/networks/create", {"Name": "told"}, 201)
    identifier = create(daemon, "true", network="told", Binds=["kept:/data:ro"])
    call(daemon, "POST", f"/containers/{identifier}/start")
    stream(daemon, "POST", f"/containers/{identifier}/wait")
    document(daemon, "DELETE", f"/containers/{identifier}")
    found = [event for event in daemon.events.past() if event.attributes.get("container") == identifier or event.id == identifier]
    assert [(event.type, event.action) for event in found] == [
        ("container", "create"), ("network", "connect"), ("volume", "mount"), ("container", "start"), ("container", "die"),
        ("network", "disconnect"), ("volume", "unmount"), ("container", "destroy"),
    ]  # fmt: skip
    network = document(daemon, "GET", "/networks/told")["Id"]
    assert (found[1].id, dict(found[1].attributes)) == (network, {"container": identifier, "name": "told", "type": "bridge"})
    assert (found[2].id, found[2].attributes["destination"], found[2].attributes["read/write"]) == ("kept", "/data", "false")
    document(daemon, "DELETE", "/networks/told")
    assert [event.action for event in daemon.events.past() if event.id == network] == ["create", "connect", "disconnect", "destroy"]
