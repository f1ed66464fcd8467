from __future__ import annotations

import json
from typing import Any, cast

import pytest

from lamina.server.daemon import Daemon
from lamina.server.errors import NotFound
from lamina.server.http.messages import Answer, Reply, Request, answer, request
from lamina.server.router import Route, Router

NOBODY = cast(Daemon, None)


def echo(daemon: Daemon, request: Request, **names: str) -> Reply:
    return answer({"names": names, "version": request.version})


def missing(daemon: Daemon, request: Request) -> Reply:
    raise NotFound("No such thing")


def broken(daemon: Daemon, request: Request) -> Reply:
    raise ZeroDivisionError


ROUTER = Router(
    (
        Route("GET", "/images/{name*}/json", echo),
        Route("GET", "/things/{name}", echo),
        Route("GET", "/missing", missing),
        Route("GET", "/broken", broken),
    )
)


def ask(target: str, method: str = "GET") -> tuple[int, Any]:
    reply = ROUTER(NOBODY, request(method, target))
    assert isinstance(reply, Answer)
    return reply.status, json.loads(reply.body)


def test_names_of_images_may_have_slashes_others_not() -> None:
    assert ask("/v1.41/images/a/b:1/json")[1]["names"] == {"name": "a/b:1"}
    assert ask("/v1.41/things/a/b")[0] == 404


@pytest.mark.parametrize(("prefix", "version"), [("", [1, 41]), ("/v1.12", [1, 12]), ("/v1.24", [1, 24]), ("/v1.44", [1, 44])])
def test_versions_that_are_served(prefix: str, version: list[int]) -> None:
    assert ask(prefix + "/things/x")[1]["version"] == version


def test_too_new_is_json_and_too_old_is_plain_text() -> None:
    status, body = ask("/v1.99/things/x")
    assert status == 400
    assert "too new" in body["message"]
    reply = ROUTER(NOBODY, request("GET", "/v1.1/things/x"))
    assert isinstance(reply, Answer)
    assert reply.status == 400
    assert reply.content_type.startswith("text/plain")
    assert b"too old" in reply.body


def test_unknown_paths_and_methods_are_docker_s_404() -> None:
    assert ask("/nosuch") == (404, {"message": "page not found"})
    assert ask("/missing", "DELETE") == (404, {"message": "page not found"})


@pytest.mark.parametrize("header", ["origin", "sec-fetch-site"])
def test_web_pages_are_refused(header: str) -> None:
    reply = ROUTER(NOBODY, request("GET", "/things/x", headers={header: "null"}))
    assert isinstance(reply, Answer)
    assert reply.status == 403


def test_head_is_answered_as_get() -> None:
    assert ask("/things/x", "HEAD")[0] == 200


def test_errors_become_their_status_and_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("/missing") == (404, {"message": "No such thing"})
    status, body = ask("/broken")
    assert status == 500
    assert "bug" in body["message"]
    assert "ZeroDivisionError" in capsys.readouterr().err
