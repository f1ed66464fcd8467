"""`lamina rebase`: what is swapped, and what is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import push, simple_image, tar_of

Lamina = Callable[..., Any]
Files = Mapping[str, bytes | str | None]
OLD: Files = {"etc": None, "etc/release": b"1\n", "etc/passwd": b"root:x:0:0::/:/bin/sh\nme:x:5:5::/:/bin/sh\n", "opt": None}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


def base(registry: FakeRegistry, files: Files, tag: str = "1", **settings: object) -> str:
    config: dict[str, object] = {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": {"version": "1", "kept": "y"}, **settings}
    return push(registry.host, "base", tag, simple_image([tar_of(files)], config=config))


@pytest.fixture
def app(tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> Path:
    base(registry, OLD)
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "Dockerfile").write_text(f"FROM {registry.host}/base:1\nCOPY a /opt/a\nLABEL own=z\nWORKDIR /work\n")
    monkeypatch.chdir(folder)
    return folder


def build(lamina: Lamina, *names: str) -> str:
    said = lamina("build", "-q", *[word for name in names for word in ("-t", name)], ".")
    assert said.code == 0, said.err
    return str(said.out.strip())


def inspect(lamina: Lamina, name: str) -> dict[str, Any]:
    return dict(json.loads(lamina("inspect", name).out)[0])


def test_the_result_is_what_a_build_makes(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    first = build(lamina, "app:1", "app:latest")
    base(registry, {**OLD, "etc/release": b"2\n", "etc/new": b"n"}, Labels={"version": "2", "kept": "y"}, Cmd=["/bin/other"])
    said = lamina("rebase", "app:1")
    assert said.code == 0, said.err
    rebased = inspect(lamina, "app:1")
    assert rebased["Id"] == said.out.strip() != first
    assert rebased["RepoTags"] == ["app:1", "app:latest"]
    assert lamina("outdated").code == 0, "it stands on the new base now"
    built = inspect(lamina, build(lamina))
    assert rebased["Config"] == built["Config"]
    assert rebased["RootFS"] == built["RootFS"]
    assert rebased["Config"]["Labels"] == {"version": "2", "kept": "y", "own": "z"}


def test_onto_another_reference_under_another_name(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    first = build(lamina, "app:1")
    base(registry, {**OLD, "etc/release": b"3\n"}, tag="3")
    said = lamina("rebase", "--json", "--onto", f"{registry.host}/base:3", "-t", "app:3", "app:1")
    assert said.code == 0, said.err
    assert json.loads(said.out)["base"] == f"{registry.host}/base:3"
    assert inspect(lamina, "app:1")["Id"] == first
    assert inspect(lamina, "app:3")["Id"] == json.loads(said.out)["image"] != first


def test_on_the_newest_base_already(lamina: Lamina, app: Path) -> None:
    first = build(lamina, "app:1")
    said = lamina("rebase", "app:1")
    assert (said.code, said.out.strip()) == (0, first)
    assert "already" in said.err


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"Env": ["PATH=/bin", "A=b"]}, "ENV"),
        ({"User": "me"}, "USER"),
        ({"WorkingDir": "/else"}, "WORKDIR"),
        ({"Shell": ["/bin/bash", "-c"]}, "SHELL"),
        ({"OnBuild": ["RUN true"]}, "ONBUILD"),
    ],
)
def test_other_settings_are_refused(lamina: Lamina, app: Path, registry: FakeRegistry, settings: dict[str, object], word: str) -> None:
    first = build(lamina, "app:1")
    base(registry, OLD, "1", **settings)
    said = lamina("rebase", "app:1")
    assert said.code == 1
    assert f"the new base has another {word}, which its instructions saw" in said.err
    assert inspect(lamina, "app:1")["Id"] == first


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**OLD, "opt": b"a file"}, "/opt is no folder in the new base"),
        ({**OLD, "opt/a": None}, "/opt/a is a folder in the new base"),
        ({**OLD, "work": "/elsewhere"}, "/work is no folder in the new base"),
    ],
)
def test_paths_that_collide_are_named(lamina: Lamina, app: Path, registry: FakeRegistry, files: Files, words: str) -> None:
    build(lamina, "app:1")
    base(registry, files)
    said = lamina("rebase", "app:1")
    assert said.code == 1
    assert words in said.err


def test_a_copied_file_replaces_what_the_new_base_has_there(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    build(lamina, "app:1")
    base(registry, {**OLD, "opt/a": b"theirs"})
    assert lamina("rebase", "app:1").code == 0


def test_names_of_users_are_looked_up_in_the_base(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    (app / "Dockerfile").write_text(f"FROM {registry.host}/base:1\nCOPY --chown=me a /opt/a\n")
    build(lamina, "app:1")
    base(registry, {**OLD, "etc/passwd": b"root:x:0:0::/:/bin/sh\nme:x:7:7::/:/bin/sh\n"})
    said = lamina("rebase", "app:1")
    assert said.code == 1
    assert "/etc/passwd differs, and --chown names users" in said.err


def test_what_stands_on_nothing_or_is_not_known(lamina: Lamina, app: Path, rootfs: Path) -> None:
    (app / "Dockerfile").write_text("FROM scratch\nCOPY a /a\n")
    build(lamina, "app:1")
    assert "it stands on no base image" in lamina("rebase", "app:1").err
    assert lamina("import", str(rootfs), "other:1").code == 0
    assert "nothing is known of how the image was built" in lamina("rebase", "other:1").err


def test_other_stages_on_the_base_are_named(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    (app / "Dockerfile").write_text(
        f"FROM {registry.host}/base:1 AS tools\nCOPY a /tool\nFROM {registry.host}/base:1\nCOPY --from=tools /tool /tool\n"
    )
    build(lamina, "app:1")
    base(registry, {**OLD, "etc/release": b"2\n"})
    said = lamina("rebase", "--strict", "app:1")
    assert said.code == 1
    assert "stages that it copies from use the base too: tools" in said.err
    said = lamina("rebase", "app:1")
    assert said.code == 0
    assert "stage tools: what was copied from there is of the old base" in said.err
