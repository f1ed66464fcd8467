from __future__ import annotations

import pytest

from lamina.dockerfile import parse
from lamina.dockerfile.instructions import Run
from lamina.dockerfile.mounts import Device, Mount, MountError, evaluate, parse_device, split_mount


def mount(value: str) -> Mount:
    document = parse(f"FROM a\nRUN --mount={value} x\n")
    assert not document.errors
    run = document.stages[0].instructions[0]
    assert isinstance(run, Run)
    return evaluate(run.mounts[0], lambda text: text.replace("$V", "value"))


def test_defaults_by_type() -> None:
    assert mount("target=/x") == Mount("bind", target="/x", readonly=True)
    assert mount("type=cache,target=/x") == Mount("cache", target="/x", readonly=False)
    assert mount("type=tmpfs,target=/x,size=64m") == Mount("tmpfs", target="/x", readonly=False, size=64 << 20)


def test_keys_and_variables() -> None:
    found = mount("TYPE=Secret,id=$V,dst=/s,required,mode=0400,uid=1,gid=2,env=TOKEN")
    assert found == Mount("secret", target="/s", id="value", required=True, mode=0o400, uid=1, gid=2, env="TOKEN")


@pytest.mark.parametrize("flag", ["ro", "readonly", "ro=true", "rw=false", "readonly=1"])
def test_read_only(flag: str) -> None:
    assert mount(f"type=cache,target=/x,{flag}").readonly


@pytest.mark.parametrize(
    "value",
    [
        "type=cach,target=/x",
        "targt=/x",
        "type=bind,z",
        "ro=perhaps",
        "type=secret",
        "type=bind,target=/x,sharing=shared",
        "type=cache,sharing=all",
        "type=tmpfs,size=ten",
        "required,type=secret,id=x",
        "type=bind,uid=1",
        "type=cache,mode=9",
        "type=secret,source=a,id=b",
        "type=ssh,size=1",
    ],
)
def test_refused_when_evaluated(value: str) -> None:
    with pytest.raises(MountError) as caught:
        mount(value)
    assert caught.value.spans[0].line == 2


def test_a_variable_in_from_is_refused_while_reading() -> None:
    with pytest.raises(MountError, match="variables"):
        split_mount("from=$STAGE,target=/x")
    error = parse("FROM a\nRUN --mount=from=$S,target=/x y\n").errors[0]
    assert error.span is not None
    assert (error.span.line, error.span.column) == (2, 5)


def test_hints() -> None:
    with pytest.raises(MountError) as caught:
        mount("targt=/x")
    assert caught.value.hint == "did you mean target?"


def test_devices() -> None:
    assert parse_device("vendor.com/x=y,required") == Device("vendor.com/x=y", True)
    assert parse_device("name=v,required=false") == Device("v")
    with pytest.raises(MountError):
        parse_device("a,b")
