"""docker-py from PyPI as a client: what its users do, against a real `lamina serve`."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing import bases
from lamina.testing.engineserver import serving

docker: Any = pytest.importorskip("docker", reason="docker-py is not installed (pip install docker)")

pytestmark = [
    pytest.mark.xdist_group("docker-py"),  # one engine for all
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("docker-py")
    with serving(folder / "root") as host:
        client = docker.DockerClient(base_url=host, timeout=180)
        client.api.import_image_from_data(bases.busybox_tar(folder / "base.tar").read_bytes(), repository="busybox")
        yield client
        client.close()


@pytest.fixture(autouse=True)
def _nothing_is_left(client: Any) -> Iterator[None]:
    yield
    for container in client.containers.list(all=True):
        container.remove(force=True, v=True)
    client.networks.prune()
    client.volumes.prune()


@pytest.fixture
def sleeper(client: Any) -> Any:
    return client.containers.run("busybox", ["sleep", "1000"], detach=True, stop_signal="SIGKILL")


def archive(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def test_about_the_engine(client: Any) -> None:
    assert client.ping() is True
    assert client.version()["ApiVersion"] == "1.41"
    info = client.info()
    assert (info["OSType"], info["ServerVersion"]) == ("linux", client.version()["Version"])
    assert {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"} <= set(client.df())


def test_images(client: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nARG WHO=nobody\nLABEL for=$WHO\nCOPY hello /\nRUN cat /hello > /copied\n")
    (tmp_path / "hello").write_text("hello\n")
    image, log = client.images.build(path=str(tmp_path), tag="app:1", buildargs={"WHO": "you"}, rm=True)
    assert any("Successfully built" in row.get("stream", "") for row in log)
    assert (image.tags, image.labels) == (["app:1"], {"for": "you"})
    again, log = client.images.build(path=str(tmp_path), tag="app:1", buildargs={"WHO": "you"})
    assert again.id == image.id
    assert any("Using cache" in row.get("stream", "") for row in log)
    assert image.tag("app", "2")
    assert client.images.get("app:2").id == image.id
    assert image.id in [each.id for each in client.images.list(name="app")]
    assert image.history()[0]["CreatedBy"]
    saved = b"".join(client.images.get("app:2").save(named="app:2"))
    client.images.remove("app:1", force=True)
    client.images.remove("app:2", force=True)
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("app:2")
    (loaded,) = client.images.load(saved)
    assert (loaded.id, loaded.tags) == (image.id, ["app:2"])
    client.images.remove("app:2")
    with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 3"):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 3\n"))


def test_a_run_gives_output_or_its_error(client: Any) -> None:
    assert client.containers.run("busybox", "echo out", remove=True) == b"out\n"
    assert client.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], remove=True, stdout=True, stderr=True) in (
        b"out\nerr\n", b"err\nout\n",
    )  # fmt: skip
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 4"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (4, b"why\n")
    with pytest.raises(docker.errors.ImageNotFound):
        client.containers.create("nosuch:image", "true")
    assert client.containers.list(all=True) == []


def test_logs_are_streamed_while_it_runs(client: Any) -> None:
    script = "echo one; while [ ! -e /go ]; do sleep 0.02; done; echo two"
    container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
    rows = container.logs(stream=True, follow=True)
    assert next(rows) == b"one\n"
    assert container.put_archive("/", archive(go=b""))
    assert b"".join(rows) == b"two\n"
    assert container.wait()["StatusCode"] == 0
    assert container.logs(tail=1) == b"two\n"
    assert container.logs(timestamps=True).split()[1::2] == [b"one", b"two"]


def test_commands_inside(client: Any, sleeper: Any) -> None:
    assert sleeper.exec_run("echo hi") == (0, b"hi\n")
    assert sleeper.exec_run(["sh", "-c", "echo $A; id -u; pwd; exit 7"], environment={"A": "b"}, user="1000", workdir="/tmp") == (
        7,
        b"b\n1000\n/tmp\n",
    )
    assert sleeper.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True) == (0, (b"out\n", b"err\n"))
    assert b"".join(sleeper.exec_run("cat /etc/group", stream=True).output).startswith(b"root:x:0")
    _, connection = sleeper.exec_run("cat", stdin=True, socket=True)
    with connection:
        connection._sock.sendall(b"typed\n")
        assert connection._sock.recv(64)[8:] == b"typed\n"


def test_attach(client: Any) -> None:
    container = client.containers.create("busybox", "cat", stdin_open=True, tty=False)
    connection = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    connection._sock.sendall(b"typed\n")
    assert connection._sock.recv(64)[8:] == b"typed\n"
    connection.close()
    other = client.containers.create("busybox", ["sh", "-c", "echo one; echo two"])
    rows = other.attach(stream=True, logs=True)
    other.start()
    assert b"".join(rows) == b"one\ntwo\n"


def test_files_in_and_out(client: Any, sleeper: Any) -> None:
    assert sleeper.put_archive("/tmp", archive(a=b"1", b=b"22"))
    data, stat = sleeper.get_archive("/tmp/b")
    assert (stat["name"], stat["size"]) == ("b", 2)
    with tarfile.open(fileobj=io.BytesIO(b"".join(data))) as tar:
        (member,) = tar.getmembers()
        assert tar.extractfile(member).read() == b"22"  # type: ignore[union-attr]  # it is a file
    with pytest.raises(docker.errors.NotFound):
        sleeper.get_archive("/nosuch")
    assert {"Path": "/tmp/a", "Kind": 1} in sleeper.diff()
    with tarfile.open(fileobj=io.BytesIO(b"".join(sleeper.export()))) as tar:
        assert "tmp/a" in tar.getnames()


def test_looking_at_what_runs(client: Any, sleeper: Any) -> None:
    top = sleeper.top()
    assert top["Processes"][0][top["Titles"].index("CMD")] == "sleep 1000"
    stats = sleeper.stats(stream=False)
    assert stats["name"] == "/" + sleeper.name
    assert stats["pids_stats"]["current"] == 1
    assert stats["cpu_stats"]["system_cpu_usage"] > stats["precpu_stats"]["system_cpu_usage"]
    rows = sleeper.stats(stream=True, decode=True)
    assert next(rows)["memory_stats"]["usage"] > 0
    rows.close()
    assert sleeper.status == "created" or sleeper.status == "running"
    assert [each.id for each in client.containers.list(filters={"status": "running", "ancestor": "busybox"})] == [sleeper.id]


def test_states(client: Any, sleeper: Any) -> None:
    for act, status in ((sleeper.pause, "paused"), (sleeper.unpause, "running"), (sleeper.stop, "exited"), (sleeper.start, "running")):
        act()
        sleeper.reload()
        assert sleeper.status == status
    sleeper.rename("other-name")
    assert client.containers.get("other-name").id == sleeper.id
    sleeper.restart(timeout=0)
    sleeper.update(mem_limit="64m", restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    sleeper.reload()
    assert sleeper.attrs["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    waiting: list[Any] = []
    waiter = threading.Thread(target=lambda: waiting.append(sleeper.wait()))
    waiter.start()
    sleeper.update(restart_policy={"Name": "no"})
    sleeper.kill("SIGKILL")
    waiter.join(90)
    assert waiting[0]["StatusCode"] == 137
    with pytest.raises(docker.errors.APIError) as caught:
        sleeper.kill()
    assert caught.value.status_code == 409
    image = sleeper.commit("committed", tag="1", changes="CMD echo from-commit")
    assert client.containers.run(image.id, remove=True) == b"from-commit\n"
    sleeper.remove()
    with pytest.raises(docker.errors.NotFound):
        client.containers.get(sleeper.id)


def test_networks(client: Any) -> None:
    network = client.networks.create("front", labels={"x": "y"}, check_duplicate=True)
    web = client.containers.run(
        "busybox", ["sh", "-c", "echo hi > /tmp/i; exec httpd -f -h /tmp"], detach=True, network="front", name="web"
    )
    script = ["sh", "-c", "for i in $(seq 600); do wget -qO- http://$0/i && exit; sleep 0.1; done; exit 1"]
    assert b"hi\n" in client.containers.run("busybox", [*script, "web"], network="front", remove=True)
    other = client.networks.create(
        "back", internal=True, ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.71.0.0/24")])
    )
    other.connect(web, aliases=["alias"], ipv4_address="10.71.0.40")
    assert b"hi\n" in client.containers.run("busybox", [*script, "alias"], network="back", remove=True)
    web.reload()
    assert web.attrs["NetworkSettings"]["Networks"]["back"]["IPAddress"] == "10.71.0.40"
    other.reload()
    assert [each.id for each in other.containers] == [web.id]
    other.disconnect(web)
    with pytest.raises(docker.errors.APIError, match="active endpoints"):
        network.remove()
    assert {each.name for each in client.networks.list(filters={"label": "x=y"})} == {"front"}
    web.remove(force=True)
    assert set(client.networks.prune()["NetworksDeleted"]) == {"front", "back"}


def test_published_ports(client: Any) -> None:
    import urllib.request

    container = client.containers.run("busybox", "httpd -f -h /etc", detach=True, ports={"80/tcp": ("127.0.0.1", None)})
    container.reload()
    (binding,) = container.ports["80/tcp"]
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{binding['HostPort']}/group", timeout=60) as answer:
                assert answer.read().startswith(b"root:x:0:")
            return
        except OSError:  # it does not listen yet
            assert time.monotonic() < deadline


def test_volumes(client: Any, tmp_path: Path) -> None:
    volume = client.volumes.create("data", labels={"a": "b"})
    mounts = {"data": {"bind": "/data", "mode": "rw"}, str(tmp_path): {"bind": "/host", "mode": "ro"}}
    (tmp_path / "here").write_text("here\n")
    assert client.containers.run("busybox", ["sh", "-c", "echo kept > /data/f; cat /host/here"], volumes=mounts, remove=True) == b"here\n"
    assert client.containers.run("busybox", "cat /data/f", volumes=["data:/data:ro"], remove=True) == b"kept\n"
    with pytest.raises(docker.errors.ContainerError):
        client.containers.run("busybox", "touch /host/x", volumes=mounts, remove=True)
    assert [each.name for each in client.volumes.list(filters={"label": "a=b"})] == ["data"]
    volume.remove()
    with pytest.raises(docker.errors.NotFound):
        client.volumes.get("data")


def test_events(client: Any) -> None:
    since = int(time.time()) - 1
    client.containers.run("busybox", "true", remove=True, name="seen", labels={"mark": "me"})
    rows = client.events(since=since, until=int(time.time()) + 1, decode=True, filters={"label": "mark=me"})
    actions = [row["Action"] for row in rows]
    assert [action for action in actions if action in ("create", "start", "die", "destroy")] == ["create", "start", "die", "destroy"]


def test_health_and_restarts(client: Any) -> None:
    container = client.containers.run(
        "busybox", "sleep 1000", detach=True, healthcheck={"test": ["CMD", "test", "-e", "/ok"], "interval": 10**7 * 5, "retries": 2}
    )
    for wanted, data in (("unhealthy", None), ("healthy", archive(ok=b""))):
        if data is not None:
            container.put_archive("/", data)
        deadline = time.monotonic() + 120
        while container.health != wanted:
            assert time.monotonic() < deadline
            container.reload()


def test_the_low_level_api(client: Any) -> None:
    api = client.api
    config = api.create_host_config(binds=["/etc:/host:ro"], cap_drop=["ALL"], read_only=True, tmpfs={"/scratch": "size=1m"}, init=True)
    made = api.create_container(
        "busybox", ["sh", "-c", "ls /scratch; touch /x || echo no"], host_config=config, name="low", environment=["A=1"]
    )
    api.start(made["Id"])
    assert api.wait("low")["StatusCode"] == 0
    assert api.logs("low", stderr=False) == b"no\n"
    assert api.inspect_container("low")["HostConfig"]["CapDrop"] == ["ALL"]
    assert api.port("low", 80) is None
    api.remove_container("low")
    rows = list(api.build(fileobj=io.BytesIO(b"FROM busybox\nENV A=1\n"), tag="low:1", decode=True))
    assert {"stream": "Successfully tagged low:1\n"} in rows
    assert api.inspect_image("low:1")["Config"]["Env"][-1] == "A=1"
    client.images.remove("low:1")


def test_prunes(client: Any) -> None:
    client.containers.create("busybox", "true")
    client.volumes.create()
    assert len(client.containers.prune()["ContainersDeleted"]) == 1
    assert len(client.volumes.prune()["VolumesDeleted"]) == 1
    assert client.images.prune()["SpaceReclaimed"] >= 0
