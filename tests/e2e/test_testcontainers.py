"""testcontainers from PyPI as a client: containers that a test suite starts and talks to, against a real `lamina serve`."""

from __future__ import annotations

import io
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing import bases
from lamina.testing.engineserver import serving

pytest.importorskip("testcontainers", reason="testcontainers is not installed (pip install testcontainers)")

pytestmark = [
    pytest.mark.xdist_group("testcontainers"),  # one engine for all
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]

REAPER = "reaper:test"
# What stands for the library's reaper: it hears which labels are its own and says that it has understood.
REAPER_FILE = b"""FROM busybox
EXPOSE 8080
RUN printf '#!/bin/sh\\nread labels\\necho "$labels" > /labels\\necho ACK\\nexec cat\\n' > /talk && chmod +x /talk
CMD test -S /var/run/docker.sock && echo "it has Started!" && exec nc -ll -p 8080 -e /talk
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    docker: Any = pytest.importorskip("docker")
    folder = tmp_path_factory.mktemp("testcontainers")
    with serving(folder / "root") as host:
        client = docker.DockerClient(base_url=host)
        client.api.import_image_from_data(bases.busybox_tar(folder / "base.tar").read_bytes(), repository="busybox")
        client.images.build(fileobj=io.BytesIO(REAPER_FILE), tag=REAPER)
        client.close()
        yield host


@pytest.fixture
def library(host: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its settings, with the reaper off."""
    from testcontainers.core.config import ConnectionMode, testcontainers_config

    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    monkeypatch.setattr(testcontainers_config, "sleep_time", 0.05)
    monkeypatch.setattr(
        testcontainers_config, "connection_mode_override", ConnectionMode.docker_host
    )  # the suite itself may run in a container
    return testcontainers_config


def web(**settings: Any) -> Any:
    from testcontainers.core.container import DockerContainer

    made = DockerContainer("busybox", **settings).with_command(
        ["sh", "-c", 'echo "$SAID" > /tmp/i; echo ready; exec httpd -f -h /tmp -p 80']
    )
    return made.with_env("SAID", "hello").with_exposed_ports(80)


def said(words: str, container: Any) -> Any:
    """The container, which counts as started once it has said that."""
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    return container.waiting_for(LogMessageWaitStrategy(words).with_poll_interval(0.02).with_startup_timeout(120))


def test_a_container_is_waited_for_and_talked_to_at_its_mapped_port(library: Any) -> None:
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    with web().waiting_for(HttpWaitStrategy(80, "/i").with_poll_interval(0.05)) as container:
        place = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(80)}/i"
        with urllib.request.urlopen(place, timeout=60) as answer:
            assert answer.read() == b"hello\n"
        assert container.exec(["cat", "/tmp/i"]) == (0, b"hello\n")
        assert container.get_logs()[0] == b"ready\n"
        identifier, client = container.get_wrapped_container().id, container.get_docker_client().client
    assert identifier not in [each.id for each in client.containers.list(all=True)]


def test_what_it_says_is_waited_for(library: Any) -> None:
    with said("read[y]", web()) as container:
        assert container.get_logs()[0] == b"ready\n"


def test_containers_of_a_network_know_each_other_by_aliases(library: Any) -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    script = "for i in $(seq 600); do wget -qO- http://backend/i && exec sleep 1000; sleep 0.1; done"
    with (
        Network() as network,
        web().with_network(network).with_network_aliases("backend", "other"),
        said("hello", DockerContainer("busybox").with_command(["sh", "-c", script]).with_network(network)) as client,
    ):
        assert client.get_logs()[0] == b"hello\n"


def test_folders_of_the_machine_and_files_that_are_copied(library: Any, tmp_path: Path) -> None:
    from testcontainers.core.container import DockerContainer

    (tmp_path / "given").write_text("given\n")
    made = DockerContainer("busybox").with_command(["sh", "-c", "cat /in/given; exec sleep 1000"]).with_volume_mapping(str(tmp_path), "/in")
    with said("given", made) as container:
        container.copy_into_container(b"copied\n", "/tmp/copied")
        assert container.exec("cat /tmp/copied").output == b"copied\n"
        container.copy_from_container("/tmp/copied", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"copied\n"


def test_an_image_is_built_for_a_test_and_removed_after(library: Any, tmp_path: Path) -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.image import DockerImage

    (tmp_path / "Dockerfile").write_text("FROM busybox\nCMD echo built; sleep 1000\n")
    with DockerImage(path=tmp_path, tag="built:test") as image:
        with said("built", DockerContainer(str(image))) as container:
            assert container.get_wrapped_container().image.tags == ["built:test"]
        client = image.get_docker_client().client
    assert not client.images.list(name="built")


def test_its_reaper_gets_the_engine_s_socket_and_the_labels(host: str, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from testcontainers.core.container import Reaper

    monkeypatch.setattr(library, "ryuk_disabled", False)
    monkeypatch.setattr(library, "ryuk_image", REAPER)
    monkeypatch.setattr(library, "ryuk_docker_socket", host.removeprefix("unix://"))
    try:
        with web() as container:
            session = container.get_wrapped_container().labels["org.testcontainers.session-id"]
            reaper = Reaper._container
            assert reaper is not None
            assert f"label=org.testcontainers.session-id={session}".encode() in reaper.exec("cat /labels").output
    finally:
        Reaper.delete_instance()
