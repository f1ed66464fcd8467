"""`lamina serve` as an ordinary user: containers with networks, names, ports and users, with a range of ids and with one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, ordinary

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

SCRIPT = """
import json, socket, time
from pathlib import Path
from lamina.testing import soak

def output(engine, *command, **more):
    identifier = soak.create(engine, *command, **more)
    code = json.loads(engine.call("POST", f"/containers/{identifier}/wait")[1])["StatusCode"]
    data = engine.call("GET", f"/containers/{identifier}/logs?stdout=1&stderr=1")[1]
    text = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        text, data = text + data[8 : 8 + length], data[8 + length :]
    return code, text.decode()

with soak.served(Path.cwd()) as engine:
    print(output(engine, "id", "-u"), flush=True)
    print(output(engine, "sh", "-c", "id -u; id -g; cat /etc/passwd | head -1; touch /tmp/x && echo written", User="1000:1001"), flush=True)
    engine.good("POST", "/networks/create", {"Name": "front"})
    where = {"HostConfig": {"NetworkMode": "front", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}}}
    web = soak.create(engine, "sh", "-c", "echo hello > /tmp/i; exec httpd -f -p 80 -h /tmp", Hostname="web", **where)
    port = int(engine.good("GET", f"/containers/{web}/json")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
    script = "for i in $(seq 600); do wget -qO- http://web/i && exit; sleep 0.1; done"
    print(output(engine, "sh", "-c", script + " 2>/dev/null", HostConfig={"NetworkMode": "front"}), flush=True)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /i HTTP/1.0\\r\\n\\r\\n")
        print(soak.read_all(client).endswith(b"hello\\n"), flush=True)
    made = engine.good("POST", f"/containers/{web}/exec", {"Cmd": ["id", "-u"], "User": "1000", "AttachStdout": True})
    with engine.connect() as connection:
        connection.sendall(soak.upgrade(f"/exec/{made['Id']}/start"))
        print(soak.read_all(connection)[-5:], flush=True)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with ordinary.home() as folder:
        yield folder


@pytest.mark.parametrize("rung", ["userns", "userns-single"])
def test_containers_of_an_ordinary_user(home: Path, rung: str) -> None:
    if rung == "userns" and not shutil.which("newuidmap"):
        pytest.skip("newuidmap is not installed (make test-deps)")
    (home / "script.py").write_text(SCRIPT)
    done = ordinary.run(["script.py"], home, {"LAMINA_SANDBOX": rung})
    log = (home / "engine.log").read_text() if (home / "engine.log").exists() else ""
    assert done.returncode == 0, done.stderr + log
    root, user, web, port, inside = done.stdout.splitlines()
    assert root == "(0, '0\\n')"
    assert user == "(0, '1000\\n1001\\nroot:x:0:0:root:/root:/bin/sh\\nwritten\\n')"
    assert web == "(0, 'hello\\n')"
    assert (port, inside) == ("True", "b'1000\\n'")
