"""Traces of real builds: of the command line, and of a client at the engine."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.tracing.tracer import tracer
from lamina.server.http.messages import Stream
from lamina.server.running import Journal
from lamina.testing import bases, buildx, engineapi
from lamina.testing.collector import Collector, collecting
from lamina.testing.engineapi import daemon_at, rows
from lamina.testing.engineserver import serving
from lamina.testing.project import Project
from lamina.testing.registry import free_port

SECRET = "hunter2-of-the-build"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FILE = "FROM scratch\nARG TOKEN\nARG DIR=/a\nCOPY a $DIR/$TOKEN/\nWORKDIR $DIR/$TOKEN\n"
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="the stores of these tests have root's layers")]


def wanted(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", **more}


def spans(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    return found


def value(span: dict[str, Any], name: str) -> object:
    return next(next(iter(pair["value"].values())) for pair in span["attributes"] if pair["key"] == name)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "context", tmp_path / "store")
    made.write({"Dockerfile": FILE, "a": "a"})
    return made


def test_builds_of_the_command_line(project: Project) -> None:
    options = ("build", "--build-arg", f"TOKEN={SECRET}", ".")
    with collecting() as collector:
        project.environment = wanted(collector, TRACEPARENT=PARENT)
        for _ in range(3):  # the last would be answered from a receipt
            done = project.run(*options)
            assert done.returncode == 0, done.stderr
        bodies = [body for _, _, body in collector.got]
    assert len(bodies) == 3
    assert all(SECRET.encode() not in body for body in bodies)
    first, last = spans(bodies[0]), spans(bodies[2])
    assert [span["name"] for span in first] == ["build", "COPY a $DIR/$TOKEN/", "WORKDIR $DIR/$TOKEN"]
    assert value(first[1], "lamina.step.verdict") == "ran"
    assert {value(span, "lamina.step.verdict") for span in last[1:]} == {"hit"}
    assert {span["traceId"] for span in [*first, *last]} == {"0af7651916cd43dd8448eb211c80319c"}
    assert last[0]["parentSpanId"] == "b7ad6b7169203331"
    assert not list((project.root / "context").glob("receipt-*"))


def test_a_build_that_left_a_receipt_is_traced_all_the_same(project: Project) -> None:
    os.utime(project.folder / "a", (1, 1))
    for _ in range(2):
        assert project.run("build", ".").returncode == 0
    with collecting() as collector:
        project.environment = wanted(collector)
        assert project.run("build", ".").returncode == 0
        assert len(collector.got) == 1


def test_a_failed_build_is_an_error(project: Project) -> None:
    project.write({"Dockerfile": "FROM scratch\nCOPY a /\nARG TOKEN\nCOPY $TOKEN /\n"})
    with collecting() as collector:
        project.environment = wanted(collector)
        assert project.run("build", "--build-arg", f"TOKEN={SECRET}", ".").returncode != 0
        (_, _, body), *more = collector.got
    assert not more
    assert SECRET.encode() not in body
    assert spans(body)[0]["status"] == {"code": 2, "message": "copy/source-not-found"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, b"warning: the trace was not sent to 127.0.0.1:1: Connection refused"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, b"warning: no trace is sent: "),
    ],
)
def test_what_goes_wrong_with_a_trace_is_one_line_and_no_failure(project: Project, given: dict[str, str], said: bytes) -> None:
    project.environment = given
    done = project.run("build", ".")
    assert done.returncode == 0
    assert sum(line.startswith(b"warning:") for line in done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_builds_of_clients(tmp_path: Path) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in {"Dockerfile": FILE.encode(), "a": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with collecting() as collector, daemon_at(tmp_path / "root") as daemon:
        daemon.journal = Journal(daemon.now, tracer(wanted(collector), pytest.fail, wait=False))
        answer = rows(daemon, "POST", f'/build?t=made:1&buildargs={{"TOKEN":"{SECRET}"}}', context.getvalue())
        assert answer[-1]["stream"].startswith("Successfully tagged")
        assert collector.came.acquire(timeout=90)
        body = collector.got[0][2]
    assert SECRET.encode() not in body
    assert [span["name"] for span in spans(body)] == ["build", "COPY a $DIR/$TOKEN/", "WORKDIR $DIR/$TOKEN"]
    assert value(spans(body)[0], "lamina.build.tags") == "docker.io/library/made:1"


def test_a_clients_traceparent_is_the_parent_of_its_build(tmp_path: Path) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(b"FROM scratch\nWORKDIR /a\n")
        archive.addfile(member, io.BytesIO(b"FROM scratch\nWORKDIR /a\n"))
    answers = (b"Successfully built", b"Successfully tagged")
    with collecting() as collector, daemon_at(tmp_path / "root") as daemon:
        daemon.journal = Journal(daemon.now, tracer(wanted(collector), pytest.fail))
        for target in ("/build", "/build?version=2&t=x"):
            reply = engineapi.call(daemon, "POST", target, context.getvalue(), headers={"traceparent": PARENT, "tracestate": "a=b"})
            assert isinstance(reply, Stream)
            client = engineapi.Client()
            reply.run(client)
            assert any(word in client.got for word in answers), client.got
        # Who keeps no trace gets none.
        reply = engineapi.call(daemon, "POST", "/build", context.getvalue(), headers={"traceparent": PARENT[:-1] + "0"})
        assert isinstance(reply, Stream)
        reply.run(engineapi.Client())
        bodies = [spans(body)[0] for _, _, body in collector.got]
    assert [(body["traceId"], body["parentSpanId"], body["traceState"]) for body in bodies] == [
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "a=b")
    ] * 2


@pytest.mark.docker
@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_a_build_of_buildx_belongs_to_its_trace(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\nWORKDIR /a\n")
    with collecting() as collector, serving(tmp_path / "root", environment=list(wanted(collector).items())) as host:
        client = buildx.Client("buildx", host, tmp_path / "home")
        code, said = client.build(tmp_path / "context", environment={"TRACEPARENT": PARENT})
        assert code == 0, said
        assert collector.came.acquire(timeout=90)
        span = spans(collector.got[0][2])[0]
    assert span["traceId"] == "0af7651916cd43dd8448eb211c80319c"
    assert span["parentSpanId"] not in ("", "b7ad6b7169203331")  # buildx's own span is between


@pytest.mark.docker
@pytest.mark.skipif(buildx.buildx() is None, reason="docker-buildx is not here (make test-deps)")
def test_spans_of_buildx_are_passed_on(tmp_path: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\nWORKDIR /a\n")
    parents: set[bytes] = set()
    theirs: set[bytes] = set()
    with collecting() as collector:
        environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint), ("OTEL_SERVICE_NAME", "engine")]
        with serving(tmp_path / "root", environment=environment) as host:
            code, said = buildx.Client("remote", host, tmp_path / "home").build(tmp_path / "context")
            assert code == 0, said
            for number in range(100):
                assert collector.came.acquire(timeout=90), (parents, theirs)
                for resource in ExportTraceServiceRequest.FromString(collector.got[number][2]).resource_spans:
                    own = any(each.key == "service.name" and each.value.string_value == "engine" for each in resource.resource.attributes)
                    for span in (span for scope in resource.scope_spans for span in scope.spans):
                        if not own:
                            theirs.add(span.span_id)
                        elif span.name == "build":
                            parents.add(span.parent_span_id)
                if parents and parents <= theirs:
                    break
    assert len(parents) == 1
    assert parents <= theirs


@pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or "")
def test_a_run_of_a_pipeline_is_one_trace(tmp_path: Path, seeded_store: Path) -> None:
    shutil.copytree(seeded_store, tmp_path / "store", symlinks=True)
    project = Project(tmp_path / "repo", tmp_path / "store")
    project.write(
        {
            "Dockerfile": "FROM base:1\nRUN echo made > /made\n",
            "bitbucket-pipelines.yml": """
image: base:1
pipelines:
  default:
    - step: {name: build it, services: [docker], script: [docker build -t app:1 .]}
    - step: {name: break it, script: ["echo $TOKEN; exit 3"]}
    - step: {name: never, script: [echo no]}
""",
        }
    )
    with collecting() as collector:
        project.environment = wanted(collector, TRACEPARENT=PARENT)
        done = project.run("pipeline", "run", "--branch", "main", "--docker-cli", "own", "--secret-var", f"TOKEN={SECRET}")
        assert done.returncode == 1, done.stderr
        bodies = [body for _, _, body in collector.got]
    assert all(SECRET.encode() not in body for body in bodies)
    build, run = (spans(body) for body in bodies)
    assert [span["name"] for span in run] == ["pipeline", "build it", "break it"]
    whole, made, broken = run
    assert (whole["traceId"], whole["parentSpanId"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert {span["parentSpanId"] for span in (made, broken)} == {whole["spanId"]}
    assert (value(whole, "lamina.pipeline.outcome"), whole["status"]["code"]) == ("failed", 2)
    assert (value(broken, "lamina.step.status"), value(broken, "process.exit.code"), broken["status"]["code"]) == ("failed", "3", 2)
    # The build of the first step's docker service hangs below that step.
    assert [span["name"] for span in build] == ["build", "RUN echo made > /made"]
    assert (build[0]["traceId"], build[0]["parentSpanId"]) == (whole["traceId"], made["spanId"])


def test_an_engine_that_serves(tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(FILE)
        archive.addfile(member, io.BytesIO(FILE.encode()))
    with collecting() as collector:
        environment = {**os.environ, **wanted(collector, TRACEPARENT=PARENT)}
        argv = [sys.executable, "-m", "lamina", "--root", str(tmp_path / "root"), "serve", "--host", f"tcp://{place}", "--insecure-tcp"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment) as server:
            try:
                assert server.stderr is not None
                assert "listening" in server.stderr.readline()
                connection = http.client.HTTPConnection(place, timeout=180)
                connection.request("POST", "/build", context.getvalue(), {"Content-Type": "application/x-tar"})
                assert b"Successfully built" in connection.getresponse().read()
                connection.close()
                assert collector.came.acquire(timeout=90)
            finally:
                server.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(90)
                server.kill()
        found = spans(collector.got[0][2])
    assert [span["name"] for span in found] == ["build", "COPY a $DIR/$TOKEN/", "WORKDIR $DIR/$TOKEN"]
    assert "parentSpanId" not in found[0]  # the trace of who started the engine is not that of its builds
