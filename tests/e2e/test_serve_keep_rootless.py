"""`lamina serve --keep` as an ordinary user: the next engine enters the user namespace that the containers are in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, ordinary

pytestmark = [
    pytest.mark.rootless,
    pytest.mark.slow,
    pytest.mark.xdist_group("rootless"),
    pytest.mark.skipif(ordinary.why_not() is not None, reason=ordinary.why_not() or ""),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

SCRIPT = """
import json
from pathlib import Path
from lamina.testing import engineserver, soak
from lamina.testing import bases

root = Path.cwd() / "root"

def begin():
    process, host = engineserver.begin(root, "--keep")
    return process, soak.Engine(Path(host.removeprefix("unix://")), process.pid)

def inside(engine, name, *command, user="0"):
    made = engine.good("POST", f"/containers/{name}/exec", {"Cmd": command, "User": user, "AttachStdout": True})
    with engine.connect() as connection:
        connection.sendall(soak.upgrade(f"/exec/{made['Id']}/start"))
        return soak.read_all(connection).rpartition(b"\\r\\n\\r\\n")[2][8:]

process, engine = begin()
engine.good("POST", "/images/create?fromSrc=-&repo=busybox", bases.busybox_tar(Path("base.tar")).read_bytes())
engine.good("POST", "/networks/create", {"Name": "front"})
where = {"HostConfig": {"NetworkMode": "front"}}
web = soak.create(engine, "sh", "-c", "echo hello > /tmp/i; exec httpd -f -p 80 -h /tmp", Hostname="web", **where)
plain = soak.create(engine, "sleep", "1000")
for number in range(2):
    (process.kill if number else process.terminate)()
    process.wait()
    process, engine = begin()
    print(engine.good("GET", f"/containers/{web}/json")["State"]["Status"], flush=True)
    print(inside(engine, plain, "id", "-u", user="1000"), flush=True)
    script = "for i in $(seq 600); do wget -qO- http://web/i && exit; sleep 0.1; done"
    fresh = soak.create(engine, "sh", "-c", script + " 2>/dev/null", **where)
    engine.call("POST", f"/containers/{fresh}/wait")
    print(engine.call("GET", f"/containers/{fresh}/logs?stdout=1")[1][8:], flush=True)
for name in (web, plain):
    engine.good("POST", f"/containers/{name}/stop")
    print(json.loads(engine.call("POST", f"/containers/{name}/wait")[1])["StatusCode"], flush=True)
engineserver.end(process)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    with ordinary.home() as folder:
        yield folder


@pytest.mark.parametrize("rung", ["userns", "userns-single"])
def test_containers_of_an_ordinary_user_go_on(home: Path, rung: str) -> None:
    if rung == "userns" and not shutil.which("newuidmap"):
        pytest.skip("newuidmap is not installed (make test-deps)")
    (home / "script.py").write_text(SCRIPT)
    done = ordinary.run(["script.py"], home, {"LAMINA_SANDBOX": rung})
    log = (home / "engine.log").read_text() if (home / "engine.log").exists() else ""
    assert done.returncode == 0, done.stderr + log
    assert done.stdout.splitlines() == ["running", "b'1000\\n'", "b'hello\\n'"] * 2 + ["137", "137"], log
