"""Pins keys and states. A key that changes makes every cache in the world cold: change KEY_SCHEMA, write an ADR, then
`python tests/golden/test_keys.py --write`."""

import json
import sys
from pathlib import Path

import pytest

from lamina.cache.keys import base_state, definition_state, key_of, key_parts, merge_state, selections, state_after
from lamina.cache.record import KEY_SCHEMA, InputPart
from lamina.graph.ops import CopyAction, ExecMount, FileOp, GitOp, HttpOp, MergeOp, MkdirAction, MkfileAction, Op, Owner
from lamina.oci.digest import ChainId, Digest
from lamina.oci.platform import Platform
from lamina.testing.vertices import copy_op, exec_op

GOLDEN = Path(__file__).with_name("keys.json")
BASE = InputPart("filesystem", base_state(ChainId("sha256:" + "1" * 64)))

OPS: dict[str, Op] = {
    "run": exec_op("make"),
    "run-everything": exec_op(
        "make",
        ExecMount("bind", "/src", input=1, selector="/x", readonly=True),
        ExecMount("cache", "/root/.cache", sharing="locked", mode=0o700, uid=1000),
        ExecMount("cache", "/var/cache/apt"),
        ExecMount("tmpfs", "/tmp", size=1 << 20),
        ExecMount("secret", "/run/secrets/tok", id="tok", required=True),
        ExecMount("secret", "", id="env", env="TOKEN"),
        ExecMount("ssh", "/run/buildkit/ssh_agent.0", id="default"),
        env=("A=1", "Ü=ä", "NPM_TOKEN=t", "LINES=1\n2"),
        cwd="/app",
        user="bob:1000",
        platform=Platform("linux", "arm", "v7"),
        network="none",
        security="insecure",
        hostname="h",
        extra_hosts=(("db", "10.0.0.1"),),
        shm_size=1 << 26,
        ulimits=(("nofile", 1024, 2048),),
        devices=("vendor.com/device=x",),
    ),
    "copy": copy_op(),
    "copy-everything": copy_op(
        "/src/*.txt",
        "/d/",
        include=("a/b",),
        exclude=("*.md",),
        owner=Owner("bob", "10"),
        mode="0755",
        unpack=True,
        required=False,
    ),
    "files": FileOp((MkdirAction("/w", owner=Owner("1000")), MkfileAction("/x", b"hello\n", chmod="u+x"), CopyAction(1, "/", "/d"))),
    "http": HttpOp("http://h/f?v=1", "f"),
    "git": GitOp("https://h/r.git", "main", "sub", keep_git_dir=True, submodules=False),
    "merge": MergeOp(),
}


def found() -> dict[str, object]:
    cases: dict[str, object] = {}
    for name, op in OPS.items():
        selected = [None if i is None else InputPart("files", "sha256:" + "2" * 64, "context") for i in selections(op)]
        parts = key_parts(op, BASE, selected, [InputPart("watch", '"etag"', "http://h/f")] if name == "run-everything" else [])
        inputs = [[part.kind, part.id] for part in parts.inputs]
        cases[name] = {"op": parts.op, "inputs": inputs, "key": key_of(parts)}
    key = key_of(key_parts(exec_op("make"), BASE))
    states = {
        "scratch": base_state(None),
        "base": BASE.id,
        "after": state_after(base_state(None), Digest("sha256:" + "3" * 64)),
        "merge": merge_state([base_state(None), None]),
        "definition": definition_state(key),
        "definition-nonce": definition_state(key, "n"),
    }
    return {"schema": KEY_SCHEMA, "keys": cases, "states": states}


@pytest.mark.parametrize("name", OPS)
def test_keys_stay(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(found()))
    assert now["schema"] == golden["schema"]
    assert now["keys"][name] == golden["keys"][name]


def test_states_stay() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found()["states"] == golden["states"]
    assert set(golden["keys"]) == set(OPS)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    GOLDEN.write_text(json.dumps(found(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
