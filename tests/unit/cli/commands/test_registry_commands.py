"""`lamina pull`, `push`, `copy`, `login`, `logout`, and `build --push`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.testing.fakeregistry import FakeRegistry
from lamina.testing.images import push as push_simple
from lamina.testing.images import simple_image, tar_of

Lamina = Callable[..., Any]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


@pytest.fixture
def guarded() -> Iterator[FakeRegistry]:
    with FakeRegistry(users={"me": "s3cret"}, auth="token") as found:
        yield found


def test_build_push(lamina: Lamina, app: Path, registry: FakeRegistry) -> None:
    said = lamina("build", "--push", "-t", f"{registry.host}/app:1", "--metadata-file", "meta.json", ".")
    assert said.code == 0, said.err
    digest = registry.tags["app"]["1"]
    assert json.loads((app / "meta.json").read_text())["containerimage.digest"] == digest
    before = len(registry.asked)
    for _ in range(2):  # a build that finds everything still makes sure that the registry has the image
        assert lamina("build", "--push", "-t", f"{registry.host}/app:1", ".").code == 0
    assert registry.asked[before:]
    registry.tags.clear()
    assert lamina("build", "-o", "type=registry", "-t", f"{registry.host}/app:1", ".").code == 0
    assert registry.tags["app"]["1"] == digest
    assert "nothing says where" in lamina("build", "--push", ".").err


def test_push(lamina: Lamina, built: Path, registry: FakeRegistry) -> None:
    said = lamina("push", "app:1", f"{registry.host}/team/app:1")
    assert said.code == 0, said.err
    digest = registry.tags["team/app"]["1"]
    assert said.out == f"{registry.host}/team/app@{digest}\n"
    assert "blobs sent" in said.err
    identifier = lamina("images", "-q").out.strip()
    assert lamina("tag", "app:1", f"{registry.host}/team/app:2").code == 0
    assert lamina("push", "-q", f"{registry.host}/team/app:2") == (0, f"{digest}\n", "")
    assert "2 names" in lamina("push", identifier).err
    assert "has it already" in lamina("push", identifier, f"{registry.host}/team/app:1").err
    assert lamina("push", "none:1").code not in (0, 70)
    assert lamina("push", "--platform", "linux/s390x", "app:1").code not in (0, 70)


def test_pull(lamina: Lamina, registry: FakeRegistry) -> None:
    simple = simple_image([tar_of({"f": b"x"})])
    push_simple(registry.host, "app", "1", simple)
    assert lamina("pull", f"{registry.host}/app:1").out == f"Pulled: {registry.host}/app:1\nDigest: {simple.digest}\n"
    assert "Up to date" in lamina("pull", f"{registry.host}/app:1").out
    assert lamina("pull", "-q", f"{registry.host}/app:1").out.startswith("sha256:")
    said = lamina("pull", f"{registry.host}/none:1")
    assert (said.code, said.out) == (66, "")
    assert lamina("pull", "Bad Name").code == 2


def test_copy(lamina: Lamina, built: Path, registry: FakeRegistry) -> None:
    there = lamina("copy", "app:1", f"docker://{registry.host}/app:1")
    assert there.code == 0, there.err
    assert "blobs copied" in there.err
    assert "has it already" in lamina("copy", "app:1", f"docker://{registry.host}/app:1").err
    assert lamina("copy", "-q", f"docker://{registry.host}/app:1", "oci:out:1") == (0, there.out, "")
    assert lamina("copy", "x://y", "oci:out").code == 2


def test_login_and_logout(lamina: Lamina, built: Path, guarded: FakeRegistry, tmp_path: Path) -> None:
    name = f"{guarded.host}/app:1"
    assert lamina("push", "app:1", name).code == 77
    assert lamina("login", "-u", "me", "--password-stdin", guarded.host, stdin=b"wrong").code == 77
    said = lamina("login", "-u", "me", "--password-stdin", f"http://{guarded.host}/", stdin=b"s3cret\n")
    assert said.code == 0, said.err
    assert "not encrypted" in said.err
    assert "s3cret" not in said.err
    file = tmp_path / "docker" / "config.json"
    assert list(json.loads(file.read_text())["auths"]) == [guarded.host]
    assert lamina("push", "app:1", name).code == 0
    assert "Logged out" in lamina("logout", guarded.host).err
    assert "no login" in lamina("logout", guarded.host).err
    assert lamina("push", "app:1", f"{guarded.host}/app:2").code == 77


def test_login_mistakes(lamina: Lamina) -> None:
    assert "--username" in lamina("login", "--password-stdin", stdin=b"x").err
    assert "empty" in lamina("login", "-u", "me", "--password-stdin", stdin=b"\n").err
    assert "terminal" in lamina("login", "-u", "me", stdin=b"x").err
    assert "r.example" in lamina("login", "r.example/team", "-u", "me", "--password-stdin", stdin=b"x").err


def test_bases_with_a_login_and_through_a_mirror(
    lamina: Lamina, app: Path, guarded: FakeRegistry, registry: FakeRegistry, tmp_path: Path
) -> None:
    push_simple(registry.host, "copy/base", "1", simple_image([tar_of({"f": b"x"})]))
    (tmp_path / "config" / "lamina").mkdir(parents=True)
    (tmp_path / "config" / "lamina" / "registries.toml").write_text(f'[mirrors]\n"{guarded.host}" = ["{registry.host}/copy"]\n')
    (app / "Dockerfile").write_text(f"FROM {guarded.host}/base:1\nCOPY a /a\n")
    assert lamina("build", "-q", ".").code == 0
    assert guarded.asked == []
    (tmp_path / "config" / "lamina" / "registries.toml").write_text("mirrors = 1\n")
    said = lamina("pull", f"{guarded.host}/base:1")
    assert said.code == 78
    assert "registries.toml" in said.err
