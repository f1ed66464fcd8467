"""Graphs and image configs that BuildKit's frontend made, against ours: `python -m lamina.testing.conformance graph DIR`.

DIR holds `graph.jsonl` and `corpus/`. Base images are stubs: digest = sha256 of the reference, config PATH, STUB=1, WorkingDir /.
Compared are the final config (history included), the refusals with their line, and every operation with what it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import parse
from lamina.dockerfile.lower import Lowered, Needs, Options, ResolvedBase, lower
from lamina.dockerfile.lower.scope import PATH
from lamina.dockerfile.parser import DockerfileError
from lamina.graph.ops import (
    ContextOp,
    CopyAction,
    ExecMount,
    ExecOp,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    MergeOp,
    MkdirAction,
    MkfileAction,
    Owner,
)
from lamina.graph.vertex import Vertex, walk
from lamina.oci.config import ContainerConfig, ImageConfig
from lamina.oci.digest import Digest
from lamina.testing.conformance import Outcome, locate

Plain = dict[str, Any]


def run(directory: Path) -> Iterator[Outcome]:
    recorded = locate(directory, "graph.jsonl", "dockerfiles/graph.jsonl")
    corpus = locate(recorded.parent, "corpus")
    for line in recorded.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        text = (corpus / f"{case['name']}.Dockerfile").read_bytes().decode("utf-8", "surrogateescape")
        yield Outcome(case["name"], tuple(_differences(text, case)))


def _differences(text: str, case: Plain) -> Iterator[str]:
    want_error = case["error"]
    try:
        got = _lowered(text)
    except LaminaError as error:
        if want_error is None:
            yield f"refused: {error.message} (line {error.spans[0].line if error.spans else '?'})"
        elif want_error.get("line") and error.spans and error.spans[0].line != want_error["line"]:
            yield f"refused at line {error.spans[0].line}, recorded is line {want_error['line']}: {want_error['message']}"
        return
    if want_error is not None:
        yield f"accepted; recorded is an error: {want_error['message']}"
        return
    yield from _config(got, case["image"])
    yield from _operations(got, case["ops"])


def _lowered(text: str) -> Lowered:
    document = parse(text)
    if document.errors:
        raise DockerfileError(document.errors)
    bases: dict[tuple[str, Any], ResolvedBase] = {}
    while True:
        found = lower(document, Options(), bases)
        if isinstance(found, Lowered):
            return found
        assert isinstance(found, Needs)
        for reference, platform in found.references:
            digest = Digest("sha256:" + hashlib.sha256(reference.encode()).hexdigest())
            config = ImageConfig(
                architecture="amd64",
                os="linux",
                config=ContainerConfig(env=(f"PATH={PATH}", "STUB=1"), working_dir="/"),
            )
            bases[(reference, platform)] = ResolvedBase(reference.partition("@")[0], digest, config)


def _config(got: Lowered, want: Plain) -> Iterator[str]:
    ours = json.loads(msgspec.json.encode(got.config))
    for name in sorted(ours.get("config", {}).keys() | want["config"].keys()):
        mine, theirs = ours.get("config", {}).get(name), want["config"].get(name)
        if mine != theirs:
            yield f"config {name}: got {json.dumps(mine)}, recorded is {json.dumps(theirs)}"
    for name in ("architecture", "os", "author", "variant"):
        if (ours.get(name) or None) != (want.get(name) or None):
            yield f"{name}: got {ours.get(name)}, recorded is {want.get(name)}"
    mine = [(h["created_by"], h.get("empty_layer", False)) for h in ours.get("history", [])]
    theirs = [(h["created_by"], h.get("empty_layer", False)) for h in want.get("history") or []]
    for number in range(max(len(mine), len(theirs))):
        one, other = mine[number : number + 1], theirs[number : number + 1]
        if one != other:
            yield f"history {number}: got {one}, recorded is {other}"
            break


def _operations(got: Lowered, want: list[Plain]) -> Iterator[str]:
    theirs = _recorded(want)
    ours = _own(got.target)
    for digest, plain in theirs.items():
        if digest not in ours:
            yield f"no operation like {json.dumps(plain)[:500]}"
            near = [p for d, p in ours.items() if d not in theirs and p["op"] == plain["op"]]
            if near:
                yield f"  nearest of ours: {json.dumps(near[0])[:500]}"
            return
    for digest, plain in ours.items():
        if digest not in theirs:
            yield f"an operation too many: {json.dumps(plain)[:500]}"
            return


def _hash(plain: Plain) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


# What was recorded


def _recorded(ops: list[Plain]) -> dict[str, Plain]:
    """Operations that the result needs, by a digest over them and all that they depend on."""
    digests: list[str] = []
    plains: list[Plain] = []
    if not ops:
        return {}
    for op in ops[:-1]:
        inputs = [digests[index] for index, _ in op["inputs"]]
        plain = _READERS[op["op"]](op, inputs, plains, digests)
        plains.append(plain)
        digests.append(_hash(plain))
    needed: set[int] = set()
    stack = [index for index, _ in ops[-1]["inputs"]]
    while stack:
        index = stack.pop()
        if index not in needed:
            needed.add(index)
            stack.extend(i for i, _ in ops[index]["inputs"])
    return {digests[n]: plains[n] for n in sorted(needed) if not plains[n].get("inline")}


def _read_source(op: Plain, inputs: list[str], plains: list[Plain], digests: list[str]) -> Plain:
    kind, _, rest = op["id"].partition("://")
    attrs = op.get("attrs") or {}
    if kind == "docker-image":
        return {"op": "image", "ref": rest}
    if kind == "local":
        return {"op": "local", "name": rest}
    if kind in ("http", "https"):
        return {"op": "http", "url": op["id"], "filename": attrs.get("http.filename"), "checksum": attrs.get("http.checksum")}
    return {"op": "git", "url": attrs.get("git.fullurl"), "fragment": rest.partition("#")[2], "keep": "git.keepgitdir" in attrs}


def _read_exec(op: Plain, inputs: list[str], plains: list[Plain], digests: list[str]) -> Plain:
    mounts = []
    for mount in op["mounts"]:
        source = None if mount["input"] < 0 else inputs[mount["input"]]
        plain = {k: v for k, v in mount.items() if k != "input" and (k, v) != ("optional", False)} | {"source": source}
        if plain["type"] == "SSH":
            plain["ssh_id"] = plain["ssh_id"] or "default"
        if mount["type"] == "CACHE" and mount["input"] >= 0:
            # BuildKit makes the folder of a cache mount with an owner or mode by an operation of its own
            inner = plains[op["inputs"][mount["input"]][0]]
            if inner["op"] == "file" and inner["actions"][0]["do"] == "mkdir" and inner["base"] is None:
                inner["inline"] = True
                plain |= {"source": None, "folder": [inner["actions"][0]["mode"], inner["actions"][0]["owner"]]}
                plain.pop("selector", None)
        mounts.append(plain)
    plain = {k: v for k, v in op.items() if k in ("args", "env", "cwd", "user", "network", "security", "secret_env")}
    return {"op": "exec", **plain, "mounts": mounts}


def _read_file(op: Plain, inputs: list[str], plains: list[Plain], digests: list[str]) -> Plain:
    first = op["actions"][0]["input"]
    base = None if first < 0 else inputs[first]
    actions = []
    for action in op["actions"]:
        plain = {k: v for k, v in action.items() if k not in ("input", "secondary")}
        if "secondary" in action:
            plain["source"] = inputs[action["secondary"]] if action["secondary"] >= 0 else None
        actions.append(plain)
    return {"op": "file", "base": base, "actions": actions}


def _read_merge(op: Plain, inputs: list[str], plains: list[Plain], digests: list[str]) -> Plain:
    return {"op": "merge", "inputs": inputs}


_READERS = {"source": _read_source, "exec": _read_exec, "file": _read_file, "merge": _read_merge}


# Ours, in the same shape


def _own(target: Vertex | None) -> dict[str, Plain]:
    digests: dict[int, str] = {}
    found: dict[str, Plain] = {}
    for vertex in walk((target,)):
        inputs = [None if v is None else digests[id(v)] for v in vertex.inputs]
        plain = _plain(vertex, inputs)
        digests[id(vertex)] = _hash(plain)
        found[digests[id(vertex)]] = plain
    return found


def _plain(vertex: Vertex, inputs: list[str | None]) -> Plain:
    op = vertex.op
    match op:
        case ImageOp():
            return {"op": "image", "ref": f"{op.reference}@{op.digest}"}
        case ContextOp():
            return {"op": "local", "name": op.name}
        case HttpOp():
            return {"op": "http", "url": op.url, "filename": op.filename, "checksum": op.checksum}
        case GitOp():
            fragment = op.ref + (f":{op.subdir}" if op.subdir else "")
            return {"op": "git", "url": op.url, "fragment": fragment, "keep": op.keep_git_dir}
        case MergeOp():
            return {"op": "merge", "inputs": inputs}
        case FileOp():
            return {"op": "file", "base": inputs[0], "actions": [_file_action(action, inputs) for action in op.actions]}
        case ExecOp():
            return _exec(op, inputs)


def _owner(owner: Owner | None) -> list[int | str | None] | None:
    if owner is None:
        return None
    return [int(w) if w is not None and w.isdecimal() else w for w in (owner.user, owner.group)]


def _file_action(action: CopyAction | MkfileAction | MkdirAction, inputs: list[str | None]) -> Plain:
    if isinstance(action, MkdirAction):
        return {"do": "mkdir", "path": action.path, "mode": action.mode, "owner": _owner(action.owner), "parents": True}
    if isinstance(action, MkfileAction):
        data = action.data.decode("utf-8", "replace")
        return {"do": "mkfile", "path": action.path, "mode": action.mode, "owner": _owner(action.owner), "data": data}
    plain: Plain = {"do": "copy", "src": action.source, "dest": action.dest, "create_dest_path": True, "source": inputs[action.input]}
    if action.wildcard:
        plain |= {"wildcard": True, "allow_empty_wildcard": True}
    if action.follow_symlink:
        plain["follow_symlink"] = True
    if action.dir_contents:
        plain["dir_copy_contents"] = True
    if action.include:
        plain["include"] = list(action.include)
    if action.exclude:
        plain["exclude"] = list(action.exclude)
    if action.owner is not None:
        plain["owner"] = _owner(action.owner)
    if action.mode is not None:
        plain["mode"] = int(action.mode, 8) if action.mode.isdecimal() else action.mode
    if action.unpack:
        plain["unpack"] = True
    return plain


def _exec(op: ExecOp, inputs: list[str | None]) -> Plain:
    mounts: list[Plain] = [{"dest": "/", "type": "BIND", "source": inputs[0]}]
    secret_env = []
    for mount in op.mounts:
        if mount.type == "secret" and mount.env is not None:
            secret_env.append({"id": mount.id, "name": mount.env} | ({} if mount.required else {"optional": True}))
            if not mount.target:
                continue
        mounts.append(_mount(mount, inputs))
    plain: Plain = {"op": "exec", "args": list(op.args), "env": list(op.env), "cwd": op.cwd, "mounts": mounts}
    if op.user:
        plain["user"] = op.user
    if op.network != "default":
        plain["network"] = op.network.upper()
    if op.security != "sandbox":
        plain["security"] = op.security.upper()
    if secret_env:
        plain["secret_env"] = secret_env
    return plain


def _mount(mount: ExecMount, inputs: list[str | None]) -> Plain:
    source = None if mount.input is None else inputs[mount.input]
    dest = mount.target + ("/" if mount.target == "/dev/pipes" else "")
    plain: Plain = {"dest": dest, "type": mount.type.upper(), "source": source}
    match mount.type:
        case "bind" | "cache":
            if mount.readonly:
                plain["readonly"] = True
            if mount.selector != "/" or mount.target == "/dev/pipes/":
                plain["selector"] = mount.selector
            if mount.type == "cache":
                plain |= {"cache_id": "/" + mount.cache_id, "sharing": mount.sharing.upper()}
                if not (mount.mode is None and mount.uid is None and mount.gid is None):
                    plain["folder"] = [0o755 if mount.mode is None else mount.mode, [mount.uid or 0, mount.gid or 0]]
        case "tmpfs":
            plain["size"] = mount.size
        case "secret":
            plain |= {"secret_id": mount.id, "mode": 0o400 if mount.mode is None else mount.mode} | (
                {} if mount.required else {"optional": True}
            )
        case "ssh":
            plain["ssh_id"] = mount.id
    return plain
