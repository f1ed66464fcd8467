"""A client's options as a build."""

from __future__ import annotations

import pytest

from lamina.dockerfile import parse
from lamina.server.buildkit.asked import (
    Asked,
    Export,
    agent_names,
    base_names,
    cache_entries,
    check,
    exclude_patterns,
    once,
    outputs,
    without_keys,
)
from lamina.server.errors import BadRequest


def test_options_of_the_front_end() -> None:
    asked = Asked(
        {
            "build-arg:V": "1",
            "label:a.b": "c",
            "platform": "linux/amd64,linux/arm64",
            "add-hosts": "one=1.2.3.4,two=host-gateway",
            "shm-size": "1048576",
            "ulimit": "nofile=10:20,nproc=5",
        }
    )
    assert asked.filename == "Dockerfile"
    assert asked.prefixed("build-arg:") == {"V": "1"}
    assert asked.prefixed("label:") == {"a.b": "c"}
    assert asked.platforms() == ("linux/amd64", "linux/arm64")
    assert asked.hosts() == (("one", "1.2.3.4"), ("two", "127.0.0.1"))
    assert asked.shm_size() == 1 << 20
    assert asked.ulimits() == (("nofile", 10, 20), ("nproc", 5, 5))
    assert asked.remote is None


@pytest.mark.parametrize("text", ['nofile="1', 'a"b', "nofile=1\r2"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(BadRequest, match="ulimit"):
        Asked({"ulimit": text}).ulimits()


@pytest.mark.parametrize(("value", "expected"), [(None, (False, ())), ("", (True, ())), ("a,b", (False, ("a", "b")))])
def test_no_cache_for_all_or_some_stages(value: str | None, expected: tuple[bool, tuple[str, ...]]) -> None:
    assert Asked({} if value is None else {"no-cache": value}).no_cache() == expected


def test_contexts_by_name() -> None:
    asked = Asked({"context:mine": "local:dir1", "context:base": "docker-image://busybox", "context:git": "https://host/r.git"})
    assert asked.named_contexts() == ({"mine": "dir1"}, {"base": "docker-image://busybox", "git": "https://host/r.git"})


@pytest.mark.parametrize(
    "attrs",
    [
        {"context:x": "input:y"},
        {"context:x": "oci-layout://store@sha256:00"},
        {"context:x": "/etc"},
        {"context:x": "file:///srv/r.git"},
        {"context:x": "dir"},
    ],
)
def test_contexts_that_cannot_be_had_are_refused(attrs: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        Asked(attrs).named_contexts()


def test_where_the_context_comes_from() -> None:
    assert Asked({"context": "https://github.com/a/b.git#main"}).remote == "https://github.com/a/b.git#main"
    assert Asked({"context": "http://buildkit-session/abc"}).upload == "/abc"
    assert Asked({"context": "http://buildkit-session.example/abc"}).upload is None
    for place in ("/etc", "file:///srv/r.git"):
        with pytest.raises(BadRequest):
            Asked({"context": place}).remote  # noqa: B018  # the property raises


@pytest.mark.parametrize(
    ("frontend", "attrs", "exports", "message"),
    [
        ("gateway.v0", {"source": "docker.io/docker/dockerfile:1.7@sha256:00"}, (), None),
        ("gateway.v0", {"source": "docker/dockerfile"}, (), None),
        ("gateway.v0", {"source": "someone/frontend:1"}, (), "someone/frontend"),
        ("llb.v0", {}, (), "llb.v0"),
        ("dockerfile.v0", {"requestid": "frontend.outline"}, (), "frontend.outline"),
        ("dockerfile.v0", {}, (Export("containerd"),), "containerd"),
        ("dockerfile.v0", {}, (Export("oci", {"tar": "false"}),), "tar=false"),
        ("dockerfile.v0", {}, (Export("moby"), Export("local")), None),
    ],
)
def test_what_is_not_built_here_is_refused_in_one_line(
    frontend: str, attrs: dict[str, str], exports: tuple[Export, ...], message: str | None
) -> None:
    asked = Asked(attrs, exports)
    if message is None:
        check(asked, frontend, privileged=False)
        return
    with pytest.raises(BadRequest, match=message) as caught:
        check(asked, frontend, privileged=False)
    assert "\n" not in caught.value.message


def test_names_and_pushes() -> None:
    names, done = outputs((Export("image", {"name": "a:1, b", "push": "true"}), Export("tar", {"name": "c"})))
    assert names == ("a:1", "b")
    assert [(output.type, output.attrs) for output in done] == [("image", ()), ("registry", (("name", "a:1,b"),))]


def test_patterns_of_an_ignore_file_as_clients_take_them() -> None:
    text = "\ufeff# comment\n *.log \n\n!keep.log\n/abs/x/\n./a//b\n ! spaced\n!\n"
    assert exclude_patterns(text) == ["*.log", "!keep.log", "abs/x", "a/b", "!spaced", "!."]
    assert exclude_patterns(None) == []


def test_bases_that_a_file_names() -> None:
    text = "ARG V=1\nFROM one:$V AS a\nFROM A\nFROM scratch\nFROM two AS b\nFROM one:$V\n"
    assert base_names(text, "Dockerfile") == ("one:$V", "two")
    assert base_names("", "Dockerfile") == ()


def test_agents_that_a_file_names() -> None:
    document = parse(
        "FROM x\nRUN --mount=type=secret,id=a --mount=type=ssh true\nRUN --mount=type=ssh,id=git --mount=type=cache,id=no,target=/c true\n",
        "Dockerfile",
    )
    assert agent_names(document) == {"default", "git"}


def test_steps_with_all_rights_need_the_engines_word() -> None:
    asked = Asked({}, entitlements=("security.insecure", "network.host"))
    check(asked, "dockerfile.v0", privileged=True)
    with pytest.raises(BadRequest, match="--allow-privileged"):
        check(asked, "dockerfile.v0", privileged=False)


def test_cache_imports() -> None:
    assert cache_entries('[{"Type":"registry","Attrs":{"ref":"h/x"}}]') == ({"type": "registry", "ref": "h/x"},)
    assert cache_entries("") == ()
    assert cache_entries("[1]") == ({"type": ""},)
    with pytest.raises(BadRequest):
        cache_entries("{")


def test_a_cache_that_is_named_twice_is_one() -> None:
    one, other = {"type": "registry", "ref": "a"}, {"type": "registry", "ref": "b"}
    assert once((one, other, {"ref": "a", "type": "registry"})) == (one, other)


def test_the_credentials_of_a_cache_are_not_in_its_name() -> None:
    keys: dict[str, str] = {}
    entry = {"type": "s3", "bucket": "b", "access_key_id": "me", "secret_access_key": "hidden", "session_token": ""}
    assert without_keys(entry, keys) == {"type": "s3", "bucket": "b"}
    assert keys == {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hidden"}
