"""Who gets in to the dashboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.server.http.messages import Answer
from lamina.server.locality import is_local
from lamina.server.ui.access import token_of
from lamina.testing.engineapi import call, daemon_at

REMOTE = "tcp://0.0.0.0:2376"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("unix:///x", True),
        ("tcp://127.0.0.1:1,unix:///x", True),
        ("tcp://[::1]:1", True),
        ("tcp://127.evil.example:1", False),
        (REMOTE, False),
        ("unix:///x," + REMOTE, False),
        ("fd://", False),
        ("activated", False),
    ],
)
def test_where_no_token_is_needed(place: str, expected: bool) -> None:
    assert is_local(place) is expected


def status(root: Path, place: str, target: str = "/ui", **headers: str) -> int:
    with daemon_at(root, place=place) as daemon:
        reply = call(daemon, "GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        assert isinstance(reply, Answer)
        return reply.status


@pytest.mark.parametrize("host", ["localhost", "localhost:2375", "127.0.0.1:1", "[::1]:2375", "[::1]"])
def test_this_machine_by_its_names(tmp_path: Path, host: str) -> None:
    assert status(tmp_path / "root", "tcp://127.0.0.1:1", host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:2375", "127.0.0.1.evil.example", "localhost.evil.example:1"])
@pytest.mark.parametrize("target", ["/ui", "/metrics", "/ui/none"])
def test_a_name_pointed_here_is_refused(tmp_path: Path, host: str, target: str) -> None:
    assert status(tmp_path / "root", "tcp://127.0.0.1:1", target, host=host) == 403


def test_other_sites_are_refused_own_pages_are_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert status(root, "unix:///x", host="localhost", sec_fetch_site="same-origin") == 200
    assert status(root, "unix:///x", host="localhost", sec_fetch_site="cross-site") == 403
    assert status(root, "unix:///x", host="localhost", sec_fetch_site="same-site") == 403
    assert status(root, "unix:///x", host="localhost", origin="null") == 403
    assert status(root, "unix:///x", "/info", host="localhost", sec_fetch_site="same-origin") == 403


def test_a_token_once_then_a_cookie(tmp_path: Path) -> None:
    with daemon_at(tmp_path / "root", place=REMOTE) as daemon:
        for target in ("/ui", "/metrics", "/ui/style.css", "/ui?token=", "/ui?token=wrong", "/ui?token=%ff"):
            refused = call(daemon, "GET", target)
            assert isinstance(refused, Answer)
            assert refused.status == 401
            assert token_of(daemon.folder).encode() not in refused.body
        token = token_of(daemon.folder)
        assert (daemon.folder / "ui-token").stat().st_mode & 0o777 == 0o600
        first = call(daemon, "GET", f"/ui?token={token}")
        assert isinstance(first, Answer)
        headers = dict(first.headers)
        assert (first.status, headers["Location"]) == (303, "/ui")
        assert "HttpOnly" in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].partition(";")[0]
        for given in ({"cookie": "a=b; " + cookie}, {"authorization": f"Bearer {token}"}):
            reply = call(daemon, "GET", "/ui", headers=given)
            assert isinstance(reply, Answer)
            assert reply.status == 200
        assert [file.name for file in daemon.folder.glob("ui-token*")] == ["ui-token"]
