from __future__ import annotations

import json

import pytest

from lamina.oci.config import ContainerConfig, Healthcheck, History, ImageConfig, RootFs, encode_config, parse_config
from lamina.oci.digest import DiffId
from lamina.oci.manifest import InvalidDocument

DIFF = DiffId("sha256:" + "1" * 64)


def test_names_and_omission_are_dockers() -> None:
    config = ImageConfig(
        created="2026-01-02T03:04:05Z",
        author="me",
        architecture="arm",
        variant="v7",
        os="linux",
        os_version="1",
        config=ContainerConfig(
            user="u",
            exposed_ports={"80/tcp": {}},
            env=("A=1",),
            entrypoint=("/e",),
            cmd=("c",),
            args_escaped=True,
            volumes={"/v": {}},
            working_dir="/w",
            labels={"l": "x"},
            stop_signal="9",
            healthcheck=Healthcheck(test=("CMD", "t"), interval=1, timeout=2, start_period=3, start_interval=4, retries=5),
            on_build=("RUN x",),
            shell=("/bin/sh", "-c"),
        ),
        rootfs=RootFs(diff_ids=(DIFF,)),
        history=(History(created="2026-01-02T03:04:05Z", created_by="RUN x", comment="c"), History(created_by="ENV", empty_layer=True)),
    )
    document = json.loads(encode_config(config))
    assert document == {
        "created": "2026-01-02T03:04:05Z",
        "author": "me",
        "architecture": "arm",
        "variant": "v7",
        "os": "linux",
        "os.version": "1",
        "config": {
            "User": "u",
            "ExposedPorts": {"80/tcp": {}},
            "Env": ["A=1"],
            "Entrypoint": ["/e"],
            "Cmd": ["c"],
            "ArgsEscaped": True,
            "Volumes": {"/v": {}},
            "WorkingDir": "/w",
            "Labels": {"l": "x"},
            "StopSignal": "9",
            "Healthcheck": {"Test": ["CMD", "t"], "Interval": 1, "Timeout": 2, "StartPeriod": 3, "StartInterval": 4, "Retries": 5},
            "OnBuild": ["RUN x"],
            "Shell": ["/bin/sh", "-c"],
        },
        "rootfs": {"type": "layers", "diff_ids": [DIFF]},
        "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "RUN x", "comment": "c"}, {"created_by": "ENV", "empty_layer": True}],
    }
    assert parse_config(encode_config(config)) == config


def test_empty_lists_and_maps_are_left_out() -> None:
    config = ImageConfig(config=ContainerConfig(cmd=(), entrypoint=(), env=(), labels={}, volumes={}, on_build=()))
    assert json.loads(encode_config(config)) == {"config": {}, "rootfs": {"type": "layers", "diff_ids": []}}


def test_a_command_of_one_empty_word_stays() -> None:
    assert json.loads(encode_config(ImageConfig(config=ContainerConfig(cmd=("",)))))["config"] == {"Cmd": [""]}


def test_nulls_and_unknown_fields_are_read() -> None:
    raw = {
        "architecture": "amd64",
        "os": "linux",
        "author": None,
        "container_config": {"Hostname": "x"},
        "docker_version": "1",
        "config": {
            "Cmd": None,
            "Volumes": {"/v": None},
            "ExposedPorts": None,
            "Hostname": "",
            "Labels": None,
            "Healthcheck": {"Test": None},
        },
        "history": [{"created": None, "created_by": None}, None],
        "rootfs": {"type": "layers", "diff_ids": None},
    }
    found = parse_config(json.dumps(raw).encode())
    assert found.config == ContainerConfig(volumes={"/v": {}}, healthcheck=Healthcheck())
    assert found.history == (History(),)
    assert found.diff_ids == ()


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"null", b'{"config": {"Env": "A=1"}}', b'{"history": 1}', b'{"a":' * 5000, b"\xff"])
def test_refused(raw: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_config(raw)
