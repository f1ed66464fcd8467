"""Contexts that a client only names: repositories (git://, http) and archives behind a URL, fetched by a real engine for unmodified clients."""

from __future__ import annotations

import functools
import os
import shutil
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lamina.testing import buildx
from lamina.testing.buildx import Client
from lamina.testing.engineserver import serving

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="steps of this test run as root"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed (make test-deps)"),
    pytest.mark.xdist_group("remote-contexts"),  # one engine for all
]

KINDS = [pytest.param(kind, marks=pytest.mark.skipif(why is not None, reason=why or "")) for kind, why in buildx.kinds()]
FILES = {
    "Dockerfile": "FROM scratch\nCOPY a /top\n",
    "a": "from the root",
    "part/Dockerfile": "FROM scratch AS none\nFROM scratch\nARG WHO=nobody\nCOPY a /part\nCOPY <<eof /who\n$WHO\neof\n",
    "part/a": "from the part",
    "part/Other": "FROM scratch\nCOPY a /other\n",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("engine") / "root") as address:
        yield address


@pytest.fixture
def client(request: pytest.FixtureRequest, host: str, tmp_path: Path) -> Client:
    return Client(request.param, host, tmp_path / "home")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """app.git with a branch `main` and a tag `v1` before its last commit, context.tar.gz, and a Dockerfile alone."""
    home = tmp_path_factory.mktemp("site")
    work = home / "work"
    for name, text in FILES.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    with tarfile.open(home / "context.tar.gz", "w:gz") as archive:
        archive.add(work, ".")
    (home / "alone").write_text("FROM scratch\nCOPY <<eof /alone\nhi\neof\n")

    def git(*arguments: str) -> None:
        settings = ["-c", "user.name=t", "-c", "user.email=t@t"]
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
        subprocess.run(["git", *settings, *arguments], cwd=work, check=True, env=environment, capture_output=True)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    (work / "part" / "a").write_text("later")
    git("commit", "-qam", "two")
    git("clone", "-q", "--bare", str(work), str(home / "app.git"))
    subprocess.run(["git", "update-server-info"], cwd=home / "app.git", check=True)
    return home


@pytest.fixture(scope="module")
def site(home: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(home))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def repository(home: Path) -> Iterator[str]:
    """`git daemon`, one process for each connection: so no port is chosen before it is bound."""

    class OneClient(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            command = ["git", "daemon", "--inetd", "--export-all", f"--base-path={home}", str(home)]
            subprocess.run(command, stdin=self.request, stdout=self.request, stderr=subprocess.DEVNULL, check=False)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), OneClient) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"git://127.0.0.1:{server.server_address[1]}/app.git"
        server.shutdown()
        thread.join()


def built(client: Client, folder: Path, *arguments: str) -> dict[str, str]:
    """The files of what was built."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    done = client.run(["build", "--output", f"type=local,dest={out}", *arguments])
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return {path.name: path.read_text() for path in out.iterdir()}


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_a_repository_with_reference_and_folder(client: Client, repository: str, tmp_path: Path) -> None:
    assert built(client, tmp_path, repository) == {"top": "from the root"}
    assert built(client, tmp_path, f"{repository}#v1:part", "--build-arg", "WHO=you") == {"part": "from the part", "who": "you\n"}
    assert built(client, tmp_path, f"{repository}#main:part") == {"part": "later", "who": "nobody\n"}


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_another_file_of_a_repository(client: Client, repository: str, site: str, tmp_path: Path) -> None:
    assert built(client, tmp_path, f"{repository}#v1:part", "-f", "Other") == {"other": "from the part"}
    assert built(client, tmp_path, f"{site}/app.git#v1:part", "-f", "Other") == {"other": "from the part"}


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_an_archive_and_a_dockerfile_behind_urls(client: Client, site: str, tmp_path: Path) -> None:
    assert built(client, tmp_path, f"{site}/context.tar.gz") == {"top": "from the root"}
    assert built(client, tmp_path, f"{site}/context.tar.gz", "-f", "part/Dockerfile", "--build-arg", "WHO=me") == {
        "part": "from the root",
        "who": "me\n",
    }
    assert built(client, tmp_path, f"{site}/alone") == {"alone": "hi\n"}


@pytest.mark.parametrize("client", KINDS[1:], indirect=True)
def test_a_named_context_of_a_repository(client: Client, repository: str, tmp_path: Path) -> None:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text("FROM scratch\nCOPY --from=code a /from-it\n")
    assert built(client, tmp_path, "--build-context", f"code={repository}#v1:part", str(place)) == {"from-it": "from the part"}


@pytest.mark.parametrize("client", KINDS, indirect=True)
@pytest.mark.parametrize(
    ("place", "word"),
    [("REPOSITORY#nothing", "no reference 'nothing'"), ("REPOSITORY#v1:nowhere", "no folder 'nowhere'"), ("SITE/absent.tar", "404")],
)
def test_what_is_not_there_is_one_error(client: Client, repository: str, site: str, place: str, word: str) -> None:
    done = client.run(["build", place.replace("REPOSITORY", repository).replace("SITE", site)])
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 1, said
    assert word in said
    assert "Traceback" not in said


def test_the_classic_protocol_takes_them_too(host: str, repository: str, site: str) -> None:
    docker: Any = pytest.importorskip("docker", reason="docker-py is not installed (pip install docker)")
    client = docker.DockerClient(base_url=host, timeout=180)
    try:
        for place, last in ((f"{repository}#v1:part", "WHO=me"), (f"{site}/context.tar.gz", ""), (f"{site}/alone", "")):
            arguments = dict([last.split("=")]) if last else {}
            image, log = client.images.build(path=place, tag="remote:1", buildargs=arguments)
            said = "".join(row.get("stream", "") for row in log)
            assert "Step 1/" in said
            assert said.endswith("Successfully tagged remote:1\n"), said
            assert image.tags == ["remote:1"]
        with pytest.raises(docker.errors.BuildError, match="no reference"):
            client.images.build(path=f"{repository}#nothing")
        # BuildKit's builder, asked by who has no session.
        asked = {"version": "2", "remote": f"{repository}#v1:part", "t": "remote:2"}
        answer = client.api._post(client.api._url("/build"), params=asked)
        assert "Successfully tagged remote:2" in answer.text
    finally:
        client.close()
