"""Unmodified BuildKit clients at a real engine: the docker CLI of 20.10, and buildx with the docker and the remote driver."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.testing import bases, buildx
from lamina.testing.buildx import Client
from lamina.testing.engineserver import serving
from lamina.testing.fakes3 import FakeS3
from lamina.testing.project import Project
from lamina.testing.registry import docker_registry
from lamina.testing.registryauth import PASSWORD, USER, htpasswd

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="steps of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
    pytest.mark.xdist_group("buildkit"),  # one engine for all
]

KINDS = [pytest.param(kind, marks=pytest.mark.skipif(why is not None, reason=why or "")) for kind, why in buildx.kinds()]
BUILDX = KINDS[1:]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, seeded_store: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("engine")
    shutil.copytree(seeded_store, folder / "root", symlinks=True)
    with serving(folder / "root") as address:
        yield address


@pytest.fixture
def client(request: pytest.FixtureRequest, host: str, tmp_path: Path) -> Client:
    return Client(request.param, host, tmp_path / "home")


def context(folder: Path, dockerfile: str, **files: str) -> Path:
    place = folder / "context"
    place.mkdir(exist_ok=True)
    (place / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        path = place / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def inspected(host: str, name: str) -> dict[str, object]:
    """The engine's word about an image, without any docker CLI."""
    from http.client import HTTPConnection
    from socket import AF_UNIX, socket

    connection = HTTPConnection("localhost")
    connection.sock = socket(AF_UNIX)
    connection.sock.connect(host.removeprefix("unix://"))
    connection.request("GET", f"/images/{name}/json")
    found = json.loads(connection.getresponse().read())
    connection.close()
    assert isinstance(found, dict)
    return found


EVERYTHING = """
FROM base:1 AS made
ARG V=1
ARG FRESH
RUN --mount=type=secret,id=tok wc -c < /run/secrets/tok > /length; echo said $V; echo $V > /v
FROM scratch AS result
COPY --from=made /v /length /
COPY . /c
FROM base:1
RUN exit 9
"""


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_arguments_target_secret_ignore_file_and_a_local_output(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, EVERYTHING, a="alpha", sub__b="beta", x__log="no", DOTdockerignore="x\nDockerfile\n.dockerignore\n")
    (place / "sub" / "link").symlink_to("../a")
    (tmp_path / "tok").write_text("hidden\n")
    options = ["--target", "result", "--build-arg", "V=two", "--build-arg", f"FRESH={tmp_path}", "--secret", f"id=tok,src={tmp_path}/tok"]
    code, said = client.build(place, *options, "--output", f"type=local,dest={tmp_path}/out")
    assert code == 0, said
    out = tmp_path / "out"
    assert (out / "v").read_text() == "two\n"
    assert (out / "length").read_text() == "7\n"
    assert sorted(str(path.relative_to(out / "c")) for path in (out / "c").rglob("*")) == ["a", "sub", "sub/b", "sub/link"]
    assert os.readlink(out / "c" / "sub" / "link") == "../a"
    assert "said two" in said
    assert "hidden" not in said


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_a_second_build_is_cached_and_a_change_says_why(client: Client, host: str, tmp_path: Path) -> None:
    place = context(tmp_path, f"FROM base:1 AS {client.kind}\nLABEL of={client.kind}\nRUN echo {tmp_path} > /made\nCOPY a /a\n", a="one")
    tag = f"second-{client.kind}"
    load = ["--load"] if client.kind == "remote" else []
    code, said = client.build(place, "-t", tag, *load, "--iidfile", str(tmp_path / "iid"))
    assert code == 0, said
    assert "CACHED" not in said
    assert "lamina: first build" in said or "lamina: instruction changed" in said, said
    identity = (tmp_path / "iid").read_text()
    assert inspected(host, tag)["Id"] == identity
    code, said = client.build(place, "-t", tag, *load, "--label", "x=y")
    assert code == 0
    assert said.count("CACHED") == 2
    config = inspected(host, tag)["Config"]
    assert isinstance(config, dict)
    assert config["Labels"] == {"of": client.kind, "x": "y"}
    (place / "a").write_text("two")
    code, said = client.build(place)
    assert said.count("CACHED") == 1
    assert "lamina: a changed in build context" in said, said
    code, said = client.build(place, "--no-cache")
    assert code == 0
    assert "CACHED" not in said


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_failures_in_dockers_words(client: Client, tmp_path: Path) -> None:
    place = context(
        tmp_path,
        "FROM base:1\nRUN echo before; exit 3\n",
        copy="FROM base:1\nCOPY absent /\n",
        parse="FROM base:1\nNOSUCH x\n",
        target="FROM base:1\n",
    )
    code, said = client.build(place)
    assert code == 1
    assert "before\n" in said
    assert 'process "/bin/sh -c echo before; exit 3" did not complete successfully: exit code: 3' in said
    code, said = client.build(place, "-f", "copy")
    assert code == 1
    assert "COPY absent /\n" in said
    assert '"/absent": not found' in said
    code, said = client.build(place, "-f", "parse")
    assert code == 1
    assert "dockerfile parse error line 2: unknown instruction: NOSUCH" in said
    code, said = client.build(place, "-f", "target", "--target", "nosuch")
    assert code == 1
    assert "nosuch" in said


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_an_archive_of_the_files(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM scratch\nCOPY a /o/\n", a="alpha")
    code, said = client.build(place, "--output", f"type=tar,dest={tmp_path}/o.tar")
    assert code == 0, said
    with tarfile.open(tmp_path / "o.tar") as archive:
        assert archive.getnames() == ["o", "o/a"]


@pytest.mark.parametrize("client", BUILDX, indirect=True)
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_an_archive_of_the_image(client: Client, form: str, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM scratch\nCOPY a /o/\n", a="alpha")
    code, said = client.build(place, "-t", "named:1", "--output", f"type={form},dest={tmp_path}/i.tar")
    if client.kind == "buildx" and code:
        assert "not supported for the docker driver" in said  # buildx itself asks for an engine of another kind
        return
    assert code == 0, said
    with tarfile.open(tmp_path / "i.tar") as archive:
        assert ("index.json" if form == "oci" else "manifest.json") in archive.getnames()


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_dockerfiles_and_contexts_from_standard_input(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM scratch\nCOPY a /from-file\n", a="alpha")
    out = ["--output", f"type=local,dest={tmp_path}/out"]
    code, said = client.build(place, "-f", "-", *out, stdin=b"FROM scratch\nCOPY a /from-stdin\n")
    assert code == 0, said
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.add(place / "a", "a")
        archive.add(place / "Dockerfile", "Dockerfile")
    code, said = client.build(place, *out, stdin=data.getvalue())
    assert code == 0, said
    assert sorted(os.listdir(tmp_path / "out")) == ["from-file", "from-stdin"]


@pytest.mark.parametrize("client", BUILDX, indirect=True)
def test_named_contexts(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM nothing-such AS x\nCOPY --from=more f /f\nRUN cat /f\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "f").write_text(f"from {tmp_path}\n")
    (tmp_path / "more" / "left-out").write_text("")
    (tmp_path / "more" / ".dockerignore").write_text("left-out\n")
    code, said = client.build(
        place, "--build-context", f"more={tmp_path}/more", "--build-context", "nothing-such=docker-image://docker.io/library/base:1"
    )
    assert code == 0, said
    assert f"from {tmp_path}" in said


@pytest.mark.parametrize("client", BUILDX, indirect=True)
def test_targets_that_need_llb_are_refused_in_one_line(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM base:1\n")
    (place / "other").write_text("FROM first\n")
    (place / "docker-bake.hcl").write_text('target "a" {}\ntarget "b" {\n dockerfile = "other"\n contexts = { first = "target:a" }\n}\n')
    done = client.run(["bake", "b"], cwd=place)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert "reference.output" in said  # buildx itself knows from our capabilities that this cannot be
    assert "Traceback" not in said


@pytest.mark.parametrize("client", BUILDX, indirect=True)
def test_disk_usage_and_prune(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, f"FROM base:1\nRUN echo {tmp_path} > /made\n")
    assert client.build(place)[0] == 0
    done = client.run(["du", "--verbose"])
    assert done.returncode == 0, done.stderr
    assert b"source.local" in done.stdout
    done = client.run(["prune", "-f"])
    assert done.returncode == 0, done.stderr
    assert b"source.local" not in client.run(["du", "--verbose"]).stdout
    code, said = client.build(place)
    assert code == 0, said


@pytest.mark.parametrize("client", BUILDX, indirect=True)
def test_the_builder_is_listed_and_described(client: Client) -> None:
    done = client.run(["inspect"])
    assert done.returncode == 0, done.stderr
    assert b"running" in done.stdout
    assert b"linux/" in done.stdout


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_a_build_that_is_interrupted_ends_its_step(client: Client, tmp_path: Path) -> None:
    seconds = str(31557600 + ["cli", "buildx", "remote"].index(client.kind))  # a step of its own for each client
    place = context(tmp_path, f"FROM base:1\nRUN exec sleep {seconds}\n")
    process = client.start(["build", "--no-cache", "."], place)
    try:
        _until(lambda: _sleeping(seconds) or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=180)
        assert process.returncode != 0
        _until(lambda: not _sleeping(seconds))
    finally:
        process.kill()
        process.wait()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _sleeping(seconds: str) -> bool:
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes() == f"sleep\0{seconds}\0".encode():
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("ssh-agent") and shutil.which("ssh-keygen")), reason="no ssh-agent is installed")
@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_an_ssh_agent_is_forwarded(client: Client, host: str, tmp_path: Path) -> None:
    base = bases.host_program_tar(tmp_path / "ssh.tar", ["ssh-add"])
    root = Path(host.removeprefix("unix://")).parent / "root"
    assert Project(tmp_path, root).run("import", str(base), "ssh:1").returncode == 0
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "forwarded", "-f", str(tmp_path / "key")], check=True)
    place = context(tmp_path, "FROM ssh:1\nRUN --mount=type=ssh ssh-add -l\n")
    code, said = client.build(place, "--no-cache", "--ssh", f"default={tmp_path}/key")
    assert code == 0, said
    assert "(ED25519)" in said, said


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed (make test-deps)")
@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_logins_of_the_client_are_used_for_bases_and_pushes(client: Client, host: str, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", auth=htpasswd(tmp_path)) as registry:
        (tmp_path / "home" / ".docker").mkdir(parents=True, exist_ok=True)
        from base64 import b64encode

        login = {"auths": {registry: {"auth": b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}
        (tmp_path / "home" / ".docker" / "config.json").write_text(json.dumps(login))
        place = context(tmp_path, "FROM scratch\nCOPY a /a\n", a="alpha")
        name = f"{registry}/{client.kind}/one:1"
        if client.kind == "cli":
            code, said = client.build(place, "-t", name)
            assert code == 0, said
            done = client.run(["push", "-q", name])
            assert done.returncode == 0, done.stderr
        else:
            code, said = client.build(place, "-t", name, "--push")
            assert code == 0, said
        (place / "Dockerfile").write_text(f"FROM {name}\nCOPY a /b\n")
        code, said = client.build(place, "--pull")
        assert code == 0, said
        (tmp_path / "home" / ".docker" / "config.json").unlink()
        (place / "Dockerfile").write_text(f"FROM {registry}/{client.kind}/other:1\nCOPY a /b\n")
        code, said = client.build(place)
        assert code == 1
        assert "Traceback" not in said


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed (make test-deps)")
@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_a_cache_in_a_registry_serves_another_engine(host: str, seeded_store: Path, tmp_path: Path) -> None:
    place = context(tmp_path, f"FROM base:1\nRUN echo {tmp_path} > /made\n")
    shutil.copytree(seeded_store, tmp_path / "other" / "root", symlinks=True)
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry, serving(tmp_path / "other" / "root") as other:
        cache = f"type=registry,ref={registry}/cache"
        code, said = Client("remote", host, tmp_path / "one").build(place, "--cache-to", cache)
        assert code == 0, said
        code, said = Client("remote", other, tmp_path / "two").build(place, "--cache-from", cache)
        assert code == 0, said
        assert said.count("CACHED") == 1


@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_attestations_stand_beside_what_leaves(host: str, tmp_path: Path) -> None:
    client = Client("remote", host, tmp_path / "home")
    place = context(tmp_path, "FROM scratch\nARG WHO\nCOPY a /a\n", a="alpha")
    options = ["--attest", "type=provenance,mode=max", "--sbom=true", "--build-arg", "WHO=me"]
    code, said = client.build(place, "-t", "x:1", *options, "--output", f"type=oci,dest={tmp_path}/x.tar", "--metadata-file", "meta.json")
    assert code == 0, said
    predicates = []
    with tarfile.open(tmp_path / "x.tar") as archive:
        for name in archive.getnames():
            member = archive.extractfile(name)
            data = member.read() if member is not None else b""
            if b'"predicateType"' in data and b'"_type"' in data:
                predicates.append(json.loads(data))
    kinds = sorted(each["predicateType"] for each in predicates)
    assert kinds == ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]
    assert "WHO" in json.dumps(next(each for each in predicates if "slsa" in each["predicateType"]))
    # What can carry none says so; what buildx asks for by itself is silent there.
    code, said = client.build(place, *options, "--output", f"type=local,dest={tmp_path}/out")
    assert code == 0, said
    assert "--provenance and --sbom left out of type=local" in said
    code, said = client.build(place, "--output", f"type=local,dest={tmp_path}/out")
    assert code == 0, said
    assert "left out" not in said


@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_several_outputs_of_one_build(host: str, tmp_path: Path) -> None:
    client = Client("remote", host, tmp_path / "home")
    place = context(tmp_path, "FROM scratch\nCOPY a /a\n", a="alpha")
    outputs = [f"type=local,dest={tmp_path}/out", f"type=oci,dest={tmp_path}/i.tar", f"type=tar,dest={tmp_path}/r.tar"]
    code, said = client.build(place, *[word for output in outputs for word in ("--output", output)])
    assert code == 0, said
    assert (tmp_path / "out" / "a").read_text() == "alpha"
    with tarfile.open(tmp_path / "i.tar") as image, tarfile.open(tmp_path / "r.tar") as files:
        assert "index.json" in image.getnames()
        assert files.getnames() == ["a"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cache-to", "type=local,dest=DIR/cache"], "--cache-to type=local is left out: registry and s3 are known here"),
        (["--cache-to", "type=inline"], "--cache-to type=inline is left out: --cache-to type=registry,ref=NAME shares the cache"),
        (["--cache-from", "type=gha"], "--cache-from type=gha is left out"),
        (["--cache-to", "type=gha"], "--cache-to type=gha is left out"),
        (["--cache-from", "type=azblob,name=x,account_url=http://127.0.0.1:1"], "--cache-from type=azblob is left out"),
    ],
)
@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_caches_of_other_kinds_are_left_out_with_a_notice(host: str, tmp_path: Path, options: list[str], said: str) -> None:
    client = Client("remote", host, tmp_path / "home")
    place = context(tmp_path, "FROM scratch\nCOPY a /a\n", a="alpha")
    github = {"ACTIONS_CACHE_URL": "http://127.0.0.1:1/", "ACTIONS_RUNTIME_TOKEN": "none"}  # without them buildx leaves gha away itself
    code, told = client.build(place, *[option.replace("DIR", str(tmp_path)) for option in options], environment=github)
    assert code == 0, told
    assert told.count(said) == 1, told


@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_a_cache_in_s3_has_the_clients_keys(host: str, tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    place = context(tmp_path, f"FROM base:1\nRUN echo {tmp_path} > /made\n")
    with FakeS3() as server:
        cache = f"type=s3,region=here,bucket=caches,endpoint_url={server.endpoint},use_path_style=true,access_key_id=mine,secret_access_key=hidden"
        code, said = Client("remote", host, tmp_path / "home").build(place, "--cache-to", cache)
        assert code == 0, said
        assert "left out" not in said
        assert [name for name in server.objects if "records/" in name], (server.objects, said)
        assert all("Credential=mine/" in headers.get("authorization", "") for _, _, headers in server.asked)
    assert "hidden" not in said


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_caches_that_are_not_there_hinder_nothing(client: Client, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM scratch\nCOPY a /a\n", a="alpha")
    code, said = client.build(place, "--cache-from", "base:1", "--cache-from", "127.0.0.1:1/nothing")
    assert code == 0, said


@pytest.mark.parametrize("client", KINDS, indirect=True)
def test_nothing_is_left_of_many_builds(client: Client, host: str, tmp_path: Path) -> None:
    place = context(tmp_path, "FROM scratch\nCOPY a /a\n", a="alpha")
    assert client.build(place)[0] == 0
    before = _threads_and_descriptors(host)
    for number in range(3):
        (place / "a").write_text(str(number))
        assert client.build(place)[0] == 0
    deadline = time.monotonic() + 120
    threads, descriptors = before[0] + 4, before[1]  # threads of the pool are kept for a while
    while (now := _threads_and_descriptors(host))[0] > threads or now[1] > descriptors:
        assert time.monotonic() < deadline, (before, now)
        time.sleep(0.05)


def _threads_and_descriptors(host: str) -> tuple[int, int]:
    """Of the engine at this socket."""
    place = host.removeprefix("unix://")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and f"unix://{place}".encode() in words:
                return len(os.listdir(folder / "task")), len(os.listdir(folder / "fd"))
        except OSError:
            continue
    raise AssertionError("the engine is not there")


FOLDER = Path(os.environ.get("LAMINA_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance") / "engine"


@pytest.mark.slow
@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
@pytest.mark.skipif(not (FOLDER / "cli_cases.py").exists(), reason="the engine's cases are not here (LAMINA_CONFORMANCE)")
@pytest.mark.parametrize(
    "case",
    ["build_and_cache", "run_mounts", "heredoc_copy_flags", "target_args_platform", "errors", "outputs", "ignore_stdin", "bake", "manage"],
)
def test_recorded_sequences_of_buildx(case: str, tmp_path: Path) -> None:
    docker = next((place for place in ("/usr/local/bin/docker", "/usr/bin/docker") if os.path.exists(place)), None)
    if docker is None:
        pytest.skip("no docker CLI is installed")
    with serving(tmp_path / "root") as address:
        command = [sys.executable, "-B", str(FOLDER / "cli_cases.py"), "--host", address, "--docker", docker]
        done = subprocess.run(
            [*command, "--buildx", str(buildx.buildx()), "--tier", "full", "--only", f"bx_{case}"],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
