"""Builds of BuildKit's clients through the handlers, with a client of our own at the other end."""

from __future__ import annotations

import base64
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest

from lamina.engine.engine import Engine
from lamina.engine.request import BuildResult
from lamina.server.buildkit import messages as m
from lamina.server.buildkit.control import methods
from lamina.server.buildkit.grpc import ClientCall, Method, RpcError, acceptor, call
from lamina.server.buildkit.http2 import Http2
from lamina.server.buildkit.logins import SessionLogins
from lamina.server.buildkit.sessions import Session
from lamina.server.buildkit.wire import decode
from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer, Hijack, request
from lamina.server.routes import ROUTER
from lamina.server.running import LiveBuild
from lamina.testing import engineapi
from lamina.testing.buildkitclient import Offer, connected, ends

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the store of these tests has root's layers"),
]

_CONTROL = "/moby.buildkit.v1.Control/"
_GATEWAY = "/moby.buildkit.v1.frontend.LLBBridge/"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with engineapi.daemon_at(tmp_path / "store") as daemon:
        yield daemon


@contextmanager
def session(daemon: Daemon, offered: dict[str, Method], name: str = "session-1", key: str = "") -> Iterator[Http2]:
    """A client whose session is open at the daemon; its own end."""
    headers = {
        "x-docker-expose-session-uuid": name,
        "x-docker-expose-session-sharedkey": key,
        "x-docker-expose-session-grpc-method": ", ".join(offered),
    }
    asked = request("POST", "/session", b"", headers)
    asked.upgrade = "h2c"
    reply = ROUTER(daemon, asked)
    assert isinstance(reply, Hijack)
    with ends() as (here, there):
        server = threading.Thread(target=lambda: reply.talk(here))
        server.start()
        own = Http2(there, acceptor(offered))
        reader = threading.Thread(target=own.run)
        reader.start()
        try:
            yield own
        finally:
            own.close()
            here.close()
            there.close()
            server.join(90)
            reader.join(90)
            assert not server.is_alive()


def folder(tmp_path: Path, dockerfile: str, **files: str) -> Path:
    root = tmp_path / "client"
    root.mkdir(exist_ok=True)
    (root / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def build(daemon: Daemon, query: str = "") -> tuple[list[dict[str, object]], str]:
    """(rows without the trace, names and errors of the trace's vertices)"""
    rows = engineapi.rows(daemon, "POST", f"/build?version=2&session=session-1&buildid=b1&remote=client-session{query}")
    told = []
    for row in rows:
        if row.get("id") == "moby.buildkit.trace":
            status = decode(m.StatusResponse, base64.b64decode(str(row["aux"])))
            told += [f"{vertex.name} {'CACHED' if vertex.cached else ''} {vertex.error}" for vertex in status.vertexes]
            told += [log.msg.decode() for log in status.logs]
    return [row for row in rows if row.get("id") != "moby.buildkit.trace"], "\n".join(told)


def test_a_build_is_named_and_found_again(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    offer = Offer({"dockerfile": root, "context": root})
    with session(daemon, offer.methods()):
        rows, told = build(daemon, "&t=one%3A1&labels=" + quote('{"x":"y"}'))
        assert rows[-1] == {"stream": "Successfully tagged one:1\n"}
        identity = engineapi.document(daemon, "GET", "/images/one:1/json")
        assert rows[0] == {"id": "moby.image.id", "aux": {"ID": identity["Id"]}}
        assert identity["Config"]["Labels"] == {"x": "y"}
        assert "CACHED" not in told
        assert "CACHED" in build(daemon)[1]


def test_a_folder_of_the_same_client_is_sent_once(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    offer = Offer({"dockerfile": root, "context": root})
    for number in range(2):
        with session(daemon, offer.methods(), key="home"):
            assert "error" not in build(daemon)[0][-1]
        assert offer.asked.count("a") == 1, number
    with session(daemon, offer.methods(), key="other"):
        build(daemon)
    assert offer.asked.count("a") == 2


def test_files_go_back_to_the_client(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /o/\nCOPY d /\n", a="alpha")
    (root / "d").mkdir()
    (root / "d" / "l").symlink_to("o/a")
    (tmp_path / "out").mkdir()
    with session(daemon, Offer({"dockerfile": root, "context": root}, target=tmp_path / "out").methods()):
        rows, _ = build(daemon, "&outputs=" + quote(json.dumps([{"Type": "local", "Attrs": {}}])))
    assert rows == []
    assert (tmp_path / "out" / "o" / "a").read_text() == "alpha"
    assert os.readlink(tmp_path / "out" / "l") == "o/a"
    offer = Offer({"dockerfile": root, "context": root})
    with session(daemon, offer.methods()):
        build(daemon, "&outputs=" + quote(json.dumps([{"Type": "tar", "Attrs": {}}])))
    with tarfile.open(fileobj=BytesIO(bytes(offer.got))) as archive:
        assert archive.getnames() == ["l", "o", "o/a"]


def test_only_named_secrets_are_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nRUN --mount=type=secret,id=named,required=true true\n")
    offer = Offer({"dockerfile": root, "context": root}, secrets={"other": b"hidden"})
    with session(daemon, offer.methods()):
        rows, told = build(daemon)
    assert [name for name in offer.asked if name.startswith("secret")] == ["secret named"]
    assert "secret 'named' is required and was not given" in str(rows[-1]["error"])
    assert "hidden" not in told + str(rows)


@pytest.mark.parametrize(
    ("dockerfile", "query", "message"),
    [
        ("FROM scratch\nNOSUCH x\n", "", "dockerfile parse error line 2: unknown instruction: NOSUCH"),
        ("", "", "the Dockerfile (Dockerfile) cannot be empty"),
        ("FROM scratch\n", "&target=x", "failed to reach build target x"),
        ("FROM scratch\n", "&dockerfile=absent", "failed to read dockerfile: open absent: no such file or directory"),
        ("FROM scratch\nCOPY absent /\n", "", '"/absent": not found'),
        ("FROM scratch\n", "&t=UPPER", "UPPER"),
        ("FROM scratch\n", "&platform=..", "platform"),
    ],
)
def test_what_cannot_be_built_is_one_line(daemon: Daemon, tmp_path: Path, dockerfile: str, query: str, message: str) -> None:
    root = folder(tmp_path, dockerfile)
    with session(daemon, Offer({"dockerfile": root, "context": root}).methods()):
        rows, _ = build(daemon, query)
    assert message in str(rows[-1]["error"])
    assert "\n" not in str(rows[-1]["error"])
    assert not list(daemon.folder.glob("contexts/[og]*/*"))


def test_a_build_is_on_the_dashboard_while_it_runs(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Engine.build
    seen: list[LiveBuild] = []

    def watched(self: Engine, *arguments: object) -> BuildResult:
        result = original(self, *arguments)  # type: ignore[arg-type]  # what it was given goes on as it came
        seen.extend(daemon.journal.running())
        return result

    monkeypatch.setattr(Engine, "build", watched)
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    with session(daemon, Offer({"dockerfile": root, "context": root}).methods()):
        build(daemon, "&t=one%3A1")
    assert [(one.client, one.title, [step.state for step in one.steps]) for one in seen] == [("a BuildKit client", "one:1", ["ran"])]
    assert daemon.journal.running() == []


def test_a_build_without_its_session_is_refused(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon.buildkit.sessions, "wait", lambda name: type(daemon.buildkit.sessions)().wait(name, 0))
    reply = engineapi.call(daemon, "POST", "/build?version=2&session=nobody")
    assert isinstance(reply, Answer)
    assert reply.status == 404


def test_a_client_that_leaves_ends_its_build(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    offered = Offer({"dockerfile": root, "context": root}).methods()
    begun = threading.Event()
    normal = offered["/moby.filesync.v1.FileSync/DiffCopy"]

    def stalls(made: object) -> None:
        from lamina.server.buildkit.grpc import ServerCall

        assert isinstance(made, ServerCall)
        if made.value("dir-name") == "context" and "followpaths" not in made.metadata:
            begun.set()
            while made.receive(m.Packet) is not None:
                pass
        normal(made)

    offered["/moby.filesync.v1.FileSync/DiffCopy"] = stalls
    rows: list[dict[str, object]] = []
    with session(daemon, offered) as own:
        builder = threading.Thread(target=lambda: rows.extend(build(daemon)[0]))
        builder.start()
        assert begun.wait(90)
        own.close()
        builder.join(90)
        assert not builder.is_alive()
    assert "context canceled" in str(rows[-1]["error"])


def packed(**files: bytes) -> bytes:
    data = BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, BytesIO(text))
    return data.getvalue()


def test_a_context_in_the_body_needs_no_session(daemon: Daemon) -> None:
    data = packed(Dockerfile=b"FROM scratch\nCOPY a /\n", a=b"alpha")
    rows = engineapi.rows(daemon, "POST", "/build?version=2&t=in-the-body", data)
    assert rows[-1] == {"stream": "Successfully tagged in-the-body\n"}
    data = packed(Dockerfile=b"FROM scratch\nCOPY absent /\n", a=b"alpha")
    rows = engineapi.rows(daemon, "POST", "/build?version=2", data)
    assert '"/absent": not found' in rows[-1]["error"]
    kept = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            kept.append(os.readlink(f"/proc/self/fd/{number}"))
    place = str(daemon.engine.store.layout.root / "tmp")
    assert [name for name in kept if name.startswith(place) and name.endswith("(deleted)")] == []


def test_a_context_that_comes_in_a_request_of_its_own(daemon: Daemon, tmp_path: Path) -> None:
    data = packed(Dockerfile=b"FROM scratch\nCOPY a /\n", a=b"alpha")
    upload = threading.Thread(target=lambda: engineapi.call(daemon, "POST", "/build?version=2&buildid=upload-request:b9", data))
    with session(daemon, Offer({}).methods()):
        upload.start()
        rows = engineapi.rows(daemon, "POST", "/build?version=2&session=session-1&buildid=b9&remote=upload-request&t=up")
        upload.join(90)
    assert rows[-1] == {"stream": "Successfully tagged up\n"}


def test_logins_are_the_clients(tmp_path: Path) -> None:
    offer = Offer({}, logins={"registry-1.docker.io": ("me", "word"), "host:5": ("", "token")})
    with connected(offer.methods()) as connection:
        logins = SessionLogins(Session("s", "", offer.methods(), connection))
        assert logins
        found = logins["docker.io"]
        assert (found.username, found.password) == ("me", "word")
        assert logins["host:5"].identity_token == "token"
        assert logins.get("elsewhere") is None


# The control API


def solve(control: Http2, **fields: object) -> m.SolveResponse:
    return call(control, _CONTROL + "Solve", m.SolveRequest(ref="r1", session="session-1", **fields), m.SolveResponse)  # type: ignore[arg-type]  # the fields of the message


def test_a_solve_with_its_front_end(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    with session(daemon, Offer({"dockerfile": root, "context": root}).methods()), connected(methods(daemon)) as control:
        answer = solve(control, frontend="dockerfile.v0", exporters=[m.Exporter("image", {"name": "solved:1"})]).exporter_response
        assert answer["image.name"] == "docker.io/library/solved:1"
        assert answer["containerimage.config.digest"] == engineapi.document(daemon, "GET", "/images/solved:1/json")["Id"]
        status = ClientCall(control, _CONTROL + "Status", [])
        status.send(m.StatusRequest("r1"))
        status.end()
        found = status.receive(m.StatusResponse)
        assert found is not None
        assert any("COPY a /" in vertex.name for vertex in found.vertexes)


def test_llb_is_refused_in_one_line(daemon: Daemon) -> None:
    with session(daemon, {}), connected(methods(daemon)) as control, pytest.raises(RpcError) as caught:
        solve(control, definition=m.Definition([b"\x1a\x02ab"]))
    assert caught.value.message == "LLB definitions are not built here: only the Dockerfile front end (dockerfile.v0) is"


def test_a_function_of_the_client_asks_and_returns(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    named = [("buildkit-controlapi-buildid", "r1")]
    with session(daemon, Offer({"dockerfile": root, "context": root}).methods()), connected(methods(daemon)) as control:
        answers: list[m.SolveResponse] = []
        solving = threading.Thread(target=lambda: answers.append(solve(control, exporters=[m.Exporter("image", {"name": "gate:1"})])))
        solving.start()
        assert call(control, _GATEWAY + "Ping", m.Nothing(), m.PongResponse, named).frontend
        with pytest.raises(RpcError, match="LLB"):
            call(control, _GATEWAY + "Solve", m.GatewaySolveRequest(m.Definition([b"x"])), m.GatewaySolveResponse, named)
        made = call(control, _GATEWAY + "Solve", m.GatewaySolveRequest(frontend="dockerfile.v0"), m.GatewaySolveResponse, named)
        call(control, _GATEWAY + "Return", m.ReturnRequest(made.result), m.Nothing, named)
        solving.join(90)
    assert answers[0].exporter_response["image.name"] == "docker.io/library/gate:1"


def test_an_error_of_the_function_is_the_builds(daemon: Daemon) -> None:
    named = [("buildkit-controlapi-buildid", "r1")]
    with session(daemon, {}), connected(methods(daemon)) as control:
        errors: list[RpcError] = []

        def attempt() -> None:
            try:
                solve(control)
            except RpcError as error:
                errors.append(error)

        solving = threading.Thread(target=attempt)
        solving.start()
        call(control, _GATEWAY + "Return", m.ReturnRequest(error=m.RpcStatus(5, "my own")), m.Nothing, named)
        solving.join(90)
    assert [(error.status, error.message) for error in errors] == [(5, "my own")]


def test_workers_usage_and_prune(daemon: Daemon, tmp_path: Path) -> None:
    root = folder(tmp_path, "FROM scratch\nCOPY a /\n", a="alpha")
    with session(daemon, Offer({"dockerfile": root, "context": root}).methods(), key="k"):
        build(daemon)
    with connected(methods(daemon)) as control:
        workers = call(control, _CONTROL + "ListWorkers", m.Nothing(), m.ListWorkersResponse).record
        assert workers[0].platforms[0].os == "linux"

        def usage(*filters: str) -> list[str]:
            answer = call(control, _CONTROL + "DiskUsage", m.DiskUsageRequest(list(filters)), m.DiskUsageResponse)
            return sorted(row.record_type for row in answer.record)

        assert usage() == ["regular", "source.local"]
        assert usage("type==regular") == ["regular"]
        assert usage("mutable,type!=regular") == ["source.local"]
        with pytest.raises(RpcError, match="not known"):
            usage("nonsense==1")
        pruning = ClientCall(control, _CONTROL + "Prune", [])
        pruning.send(m.PruneRequest())
        pruning.end()
        row = pruning.receive(m.UsageRecord)
        assert row is not None
        assert row.record_type == "source.local"
        while pruning.receive(m.UsageRecord) is not None:
            pass
        assert "source.local" not in usage()


# Without the package h2


def test_without_h2_clients_are_told_what_is_missing(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.server.handlers import buildkit

    monkeypatch.setattr(buildkit, "_has_h2", lambda: False)
    for path in ("/session", "/grpc"):
        asked = request("POST", path)
        asked.upgrade = "h2c"
        reply = ROUTER(daemon, asked)
        assert isinstance(reply, Hijack)
        client = engineapi.Client()
        reply.talk(client)
        assert b"pip install 'lamina[server]'" in client.got
        assert client.got[9 + 3] == 7  # GOAWAY after SETTINGS
        refusal = engineapi.call(daemon, "POST", path)
        assert isinstance(refusal, Answer)
        assert refusal.status == 501
    refusal = engineapi.call(daemon, "POST", "/build?version=2&session=x")
    assert isinstance(refusal, Answer)
    assert refusal.status == 501


@pytest.mark.parametrize("path", ["/session", "/grpc"])
def test_a_connection_is_taken_over_only_when_the_client_says_so(daemon: Daemon, path: str) -> None:
    reply = engineapi.call(daemon, "POST", path)
    assert isinstance(reply, Answer)
    assert reply.status == 400
