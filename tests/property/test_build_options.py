"""A build's command line, read without click: what options.parse takes it takes as click does; the rest is click's."""

from __future__ import annotations

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.cli.building import OPTIONS
from lamina.cli.commands.build import command
from lamina.cli.options import parse

NAMES = sorted(name for option in OPTIONS for name in option.names)
VALUES = (
    "app:1",
    ".",
    "-",
    "--",
    "",
    "x=y",
    "plain",
    "none",
    "named",
    "0",
    "3",
    "٣",
    "-3",
    "security.insecure",
    "--load",
    "-q",
    "/etc/passwd",
    "id=a",
)
WORDS = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(VALUES),
    st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.builds("{}{}".format, st.sampled_from([name for name in NAMES if len(name) == 2]), st.sampled_from(VALUES)),
    st.sampled_from(("--help", "-h", "--verbose", "--tags", "--cache-mount", "-x", "-qt", "--no-load")),
)


def by_click(words: list[str]) -> dict[str, object] | None:
    try:
        return command.make_context("build", list(words)).params
    except (click.ClickException, click.exceptions.Exit):
        return None


@given(st.lists(WORDS, max_size=6))
@example(["-t", "a:1", "--tag=b:2", "-f", "-", "--build-arg", "A=1", "--progress", "plain", "--report", "r.json", "-j", "2", "-q", "."])
@example(["--cache-to", "dir:/x", "--cache-mounts", "."])
def test_what_is_taken_is_taken_as_click_does(words: list[str]) -> None:
    found = parse(OPTIONS, words, {})
    if found is not None:
        assert found == by_click(words)


def test_lines_that_people_type_need_no_click() -> None:
    for line in (
        "-t app:1 .",
        "",
        "-q --build-arg V=2 --target prod --secret id=tok,src=tok --ssh default --platform linux/amd64 .",
        "--no-cache --pull --progress=plain --label a=b --cache-from dir:/a --cache-to=dir:/a --push -o type=image .",
        "- ",
        "--iidfile id --metadata-file m.json --jobs 4 --network none --refresh deps https://host.example/app.git#v1",
    ):
        assert parse(OPTIONS, line.split(), {}) == by_click(line.split()) is not None, line


@pytest.mark.parametrize("line", ["--help", ". .", "-t", "--load=1", "--network host2", "--jobs 0", "--regsitry-ca x", "-tapp:1", "-- ."])
def test_lines_that_click_has_to_look_at(line: str) -> None:
    assert parse(OPTIONS, line.split(), {}) is None


@pytest.mark.parametrize("name", ["LAMINA_REGISTRY_CA", "LAMINA_INSECURE_REGISTRY"])
def test_options_that_the_environment_gives_are_clicks(name: str) -> None:
    assert parse(OPTIONS, ["."], {name: "x"}) is None
    assert parse(OPTIONS, ["."], {name: ""}) is not None
