"""A request that is kept and repeated: what comes back, what is left out, what is said of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lamina.engine.freshness.lockfile import Lock
from lamina.engine.freshness.recipe import CannotRebuild, Given, Recipe, hindrance, plain_url, recipe_of, request_of
from lamina.engine.request import BuildRequest, Incoming, Output, Secret, Selector
from lamina.oci.platform import Platform


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / ".dockerignore").write_text("x\n")
    (tmp_path / "token").write_text("hidden")
    return tmp_path


def again(recipe: Recipe) -> Recipe:
    """Through the store."""
    return msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)


def test_there_and_back(folder: Path) -> None:
    request = BuildRequest(
        folder, "Dockerfile", "FROM scratch\n", "x\n", dockerfile_path=folder / "Dockerfile", target="t", args={"A": "1"},
        platforms=(Platform("linux", "amd64"),), tags=("a:1",), labels={"l": "v"}, named_contexts={"c": str(folder), "i": "docker-image://debian"},
        secrets=(Secret("s", file=folder / "token"),), ssh={"default": folder / "token"}, outputs=(Output("registry"), Output("image")),
        max_age=((Selector("t"), 60.0),), network="none", extra_hosts=(("h", "1.2.3.4"),), shm_size=5, ulimits=(("nofile", 1, 2),),
        allow_insecure=True, exact_modes=True, arg_scope="named", cut_off=False, epoch=7, provenance="max", sbom=("spdx",),
        cache_from=("dir:/c",), cache_to=("dir:/c",),
    )  # fmt: skip  # as dense as it is
    assert request_of(again(recipe_of(request)), ("a:1",), push=True) == request
    quiet = request_of(again(recipe_of(request)), ("a:1",))
    assert quiet.outputs == (Output("image"),)
    assert (quiet.provenance, quiet.sbom) == (None, ())


def test_a_dockerfile_that_came_on_standard_input_is_kept(folder: Path) -> None:
    recipe = again(recipe_of(BuildRequest(folder, "<stdin>", "FROM scratch\nLABEL a=b\n")))
    assert request_of(recipe, ()).dockerfile_text == "FROM scratch\nLABEL a=b\n"
    alone = again(recipe_of(BuildRequest(Path(), "<stdin>", "FROM scratch\n", incoming=Incoming())))
    assert request_of(alone, ()).incoming == Incoming()


def test_a_repository_is_fetched_again(folder: Path) -> None:
    place = "https://host.example/app.git#v1:service"
    request = request_of(again(recipe_of(BuildRequest(Path(), "D", "", incoming=Incoming(place, dockerfile="D")))), ("a:1",))
    assert request.incoming == Incoming(place, dockerfile="D")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"incoming": Incoming(archive=3, dockerfile="Dockerfile")}, "its context came from standard input"),
        ({"incoming": Incoming("https://me:pw@host.example/a.tar", dockerfile="D")}, "its context's URL has a password or a query"),
        ({"secrets": (Secret("s", value=b"hidden"),)}, "--secret s was no file"),
        ({"args": {"API_TOKEN": "hidden"}}, "--build-arg API_TOKEN looks like a secret and is not kept"),
        ({"named_contexts": {"c": "https://host.example/c.tar?sig=hidden"}}, "--build-context c: its URL has a password or a query"),
        ({"lock": Lock(), "incoming": Incoming("https://host.example/a.git")}, "built with --locked, and its context is no directory"),
    ],
)
def test_what_is_not_kept_is_said(folder: Path, changes: dict[str, object], words: str) -> None:
    recipe = recipe_of(msgspec.structs.replace(BuildRequest(folder, "Dockerfile", "FROM scratch\n"), **changes))
    stored = msgspec.json.encode(recipe)
    assert b"hidden" not in stored
    assert b":pw@" not in stored
    with pytest.raises(CannotRebuild, match=words):
        request_of(again(recipe), ("a:1",))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(folder="/gone/x", text=""), "its context /gone/x is gone"),
        (Recipe(folder="/", dockerfile="/gone/D"), "its Dockerfile /gone/D is gone"),
        (Recipe(folder="/", text="", contexts={"c": "/gone/c"}), "its context c=/gone/c is gone"),
        (Recipe(folder="/", text="", secrets={"s": "/gone/s"}), "/gone/s of --secret s is gone: give it again"),
        (Recipe(folder="/", text="", ssh={"d": "/gone/agent"}), "/gone/agent of --ssh d is gone: give it again"),
    ],
)
def test_what_is_gone(recipe: Recipe, words: str) -> None:
    assert hindrance(recipe) == words


def test_what_was_not_kept_can_be_given(folder: Path) -> None:
    request = BuildRequest(
        folder, "Dockerfile", "FROM scratch\n", "x\n", dockerfile_path=folder / "Dockerfile", args={"API_TOKEN": "hidden", "A": "1"},
        secrets=(Secret("kept", file=folder / "token"), Secret("value", value=b"hidden")), ssh={"default": folder / "token"},
        outputs=(Output("image"),),
    )  # fmt: skip  # as dense as it is
    recipe = again(recipe_of(request))
    other = folder / "other"
    given = Given((Secret("value", value=b"again"), Secret("more", value=b"x")), {"default": other}, {"API_TOKEN": "new", "B": "2"})
    assert hindrance(recipe, Given(given.secrets)) == "--build-arg API_TOKEN looks like a secret and is not kept: give it again"
    assert hindrance(recipe, given) is None
    made = request_of(recipe, (), given=given)
    assert made.args == {"A": "1", "API_TOKEN": "new"}, "what the build did not have it does not get"
    assert made.secrets == (Secret("kept", file=folder / "token"), given.secrets[0])
    assert made.ssh == {"default": other}


def test_urls_are_kept_without_secrets() -> None:
    assert plain_url("https://me:pw@h.example/a#b") == "https://h.example/a#b"
    signed = plain_url("https://h.example/a?sig=hidden")
    assert signed.startswith("https://h.example/a?sha256:")
    assert signed == plain_url("https://h.example/a?sig=hidden") != plain_url("https://h.example/a?sig=other")
