from __future__ import annotations

import base64
import json

import pytest

from lamina.server.errors import BadRequest
from lamina.server.logins import GivenLogins, host_of, one, several


def header(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def test_the_hub_has_one_name() -> None:
    assert {host_of(text) for text in ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "")} == {"docker.io"}
    assert host_of("http://localhost:5000/v2/") == "localhost:5000"


def test_one_login() -> None:
    found = GivenLogins(one(header({"username": "me", "password": "pw>?"}), "reg.example")).credentials("reg.example", "app")
    assert found is not None
    assert (found.username, found.password) == ("me", "pw>?")
    assert GivenLogins({}).credentials("reg.example", "app") is None


def test_several_logins() -> None:
    found = several(
        header({"https://index.docker.io/v1/": {"username": "a", "password": "b"}, "reg.example": {"identitytoken": "t"}, "none": {}})
    )
    assert found.keys() == {"docker.io", "reg.example"}


def test_nothing_and_padding_and_nonsense() -> None:
    assert one("", "x") == {}
    assert one("e30=", "x") == {}
    assert one("e30", "x") == {}
    with pytest.raises(BadRequest) as caught:
        one(base64.b64encode(b'{"password": "secret').decode(), "x")
    assert "secret" not in caught.value.message
