"""The library's functions: defaults are the command line's, and an ordinary user's build goes through a child."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import lamina
from lamina.diagnostics.errors import LaminaError
from lamina.engine import facade
from lamina.engine.facade import BuildProcessFailed, default_root
from lamina.engine.request import BuildRequest, ProgressEvent, Selector, StepEnded


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch AS only\nCOPY a /a\n")
    (folder / "a").write_text("one")
    return folder


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"LAMINA_ROOT": "/r", "XDG_DATA_HOME": "/x"}, "/r"),
        ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/lamina"),
        ({"XDG_DATA_HOME": "x", "HOME": "/h"}, "/h/.local/share/lamina"),
        ({}, "/root/.local/share/lamina"),
    ],
)
def test_default_root(environment: dict[str, str], root: str) -> None:
    assert default_root(environment) == Path(root)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[BuildRequest]:
    requests: list[BuildRequest] = []

    class Asked(Exception):
        pass

    def perform(what: str, subject: BuildRequest, *_: object) -> object:
        requests.append(subject)
        raise Asked

    monkeypatch.setattr(facade, "_perform", perform)
    return requests


def test_defaults_are_those_of_the_command_line(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked(monkeypatch)
    for function in (lamina.build, lamina.plan):
        with pytest.raises(Exception, match=r"^$"):
            function(context)
    text = "FROM scratch AS only\nCOPY a /a\n"
    default = BuildRequest(context=context, dockerfile_name="Dockerfile", dockerfile_text=text, dockerfile_path=context / "Dockerfile")
    assert requests == [default, default]


def test_values_reach_the_request(context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asked(monkeypatch)
    with pytest.raises(Exception, match=r"^$"):
        lamina.build(
            str(context), target="only", args={"A": "1"}, tags=["a:1"], secrets={"v": b"x", "f": tmp_path / "tok"}, platform="linux/arm64",
            refresh=["only:1"], max_age={"only": 60.0}, no_cache_filter=["only"], jobs=2,
        )  # fmt: skip
    (request,) = requests
    assert (request.target, request.args, request.tags, request.jobs) == ("only", {"A": "1"}, ("a:1",), 2)
    assert [(s.id, s.value, s.file) for s in request.secrets] == [("v", b"x", None), ("f", None, tmp_path / "tok")]
    assert (request.refresh, request.max_age) == ((Selector("only:1"),), ((Selector("only"), 60.0),))
    assert str(request.platforms[0]) == "linux/arm64"


def test_plan_build_plan(context: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    assert not lamina.plan(context, root=root, sandbox="none").complete
    events: list[ProgressEvent] = []
    result = lamina.build(context, root=root, sandbox="none", tags=["a:1"], report=events.append)
    assert [s.verdict for s in result.steps] == ["none", "ran"]
    assert [e.verdict for e in events if isinstance(e, StepEnded)] == ["ran"]
    assert lamina.plan(context, root=root, sandbox="none").complete


def test_save_and_load(context: Path, tmp_path: Path) -> None:
    result = lamina.build(context, root=tmp_path / "s", sandbox="none", tags=["a:1"])
    lamina.save(result, tmp_path / "a.tar", root=tmp_path / "s", sandbox="none")
    assert lamina.load(tmp_path / "a.tar", root=tmp_path / "other", sandbox="none") == (result.images[0].id,)


def test_a_child_does_the_same(context: Path, tmp_path: Path) -> None:
    """As for an ordinary user: the request, the events and the result go over pipes. The rung `none` needs no namespace."""
    events: list[ProgressEvent] = []
    threads = threading.active_count()
    request = facade._request(context, None)
    result = facade._in_child("build", request, tmp_path / "s", "none", events.append)
    assert isinstance(result, lamina.BuildResult)
    assert [s.verdict for s in result.steps] == ["none", "ran"]
    assert any(isinstance(event, StepEnded) for event in events)
    assert threading.active_count() <= threads


def test_a_childs_error_is_raised_here(context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    with pytest.raises(LaminaError, match="nothing") as caught:
        facade._in_child("build", facade._request(context, None), tmp_path / "s", "none", None)
    assert caught.value.spans, "where in the file it is comes along"


def test_a_child_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ncat > /dev/null\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(BuildProcessFailed, match="ended with 9"):
        facade._in_child("plan", None, tmp_path, None, None)


def test_who_works_in_a_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(facade, "perform", lambda *_: "here")
    monkeypatch.setattr(facade, "_in_child", lambda *_: "child")
    for uid, sandbox, where in (
        (0, None, "here"),
        (0, "root", "here"),
        (0, "userns", "child"),
        (1000, None, "child"),
        (1000, "none", "child"),
    ):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert facade._perform("plan", None, tmp_path, sandbox, None) == where


def test_push_and_pull(context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.testing.fakeregistry import FakeRegistry

    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "LAMINA_REGISTRIES"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "store"
    built = lamina.build(context, root=root, sandbox="none")
    with FakeRegistry() as registry:
        digest = lamina.push(built, f"{registry.host}/app:1", root=root, sandbox="none")
        assert registry.tags["app"]["1"] == digest
        assert lamina.pull(f"{registry.host}/app:1", root=tmp_path / "other", sandbox="none") == built.images[0].id
        with pytest.raises(LaminaError, match="no such manifest"):
            lamina.pull(f"{registry.host}/none", root=root, sandbox="none")


def test_several_platforms_and_what_has_moved(context: Path, tmp_path: Path) -> None:
    result = lamina.build(context, root=tmp_path / "s", sandbox="none", tags=["a:1"], platform="linux/amd64,linux/arm64")
    assert [str(image.platform) for image in result.images] == ["linux/amd64", "linux/arm64"]
    found = lamina.outdated(root=tmp_path / "s", sandbox="none")
    assert [image.verdict for image in found.images] == ["current", "current"]
    assert found.behind == ()
    with pytest.raises(lamina.LaminaError, match="nothing is known"):
        lamina.outdated(["other:1"], root=tmp_path / "s", sandbox="none")


def test_locked_builds(context: Path, tmp_path: Path) -> None:
    with pytest.raises(lamina.LaminaError, match=r"there is no .*lamina\.lock"):
        lamina.build(context, root=tmp_path / "s", sandbox="none", locked=True)
    (context / "lamina.lock").write_text('{"version": 1}')
    assert lamina.build(context, root=tmp_path / "s", sandbox="none", locked=True).images
