from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lamina.registry.challenge import Challenge, parse_challenges


def test_docker_hub() -> None:
    header = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push"'
    (found,) = parse_challenges(header)
    assert found.scheme == "bearer"
    assert found.get("realm") == "https://auth.docker.io/token"
    assert found.get("scope") == "repository:library/alpine:pull,push"
    assert found.get("error") == ""


def test_several_in_one_header() -> None:
    assert parse_challenges('Basic realm="a, b", Bearer realm=https://x/t , service = y') == (
        Challenge("basic", (("realm", "a, b"),)),
        Challenge("bearer", (("realm", "https://x/t"), ("service", "y"))),
    )


def test_token68_and_escapes() -> None:
    assert parse_challenges('Negotiate abc==, Basic realm="say \\"hi\\""') == (
        Challenge("negotiate"),
        Challenge("basic", (("realm", 'say "hi"'),)),
    )


def test_scheme_alone() -> None:
    assert parse_challenges("Basic") == (Challenge("basic"),)
    assert parse_challenges("") == ()


@given(st.text(alphabet='Bearalm="\\, =x/:\x00é', max_size=60))
def test_never_raises(text: str) -> None:
    parse_challenges(text)
