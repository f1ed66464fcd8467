"""From operations to keys: what changes the outcome goes in, nothing else. docs/dev/keys.md has the rules and their reasons.

The preimage is plain data (KeyParts), so that two keys can be compared in words. Golden files pin it; any change to what is
written here needs another KEY_SCHEMA.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from lamina.cache.record import KEY_SCHEMA, CacheKey, InputPart, KeyParts
from lamina.cache.sensitive import sensitive
from lamina.graph.ops import (
    ContextOp,
    CopyAction,
    ExecMount,
    ExecOp,
    FileAction,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    MergeOp,
    MkfileAction,
    Op,
    Owner,
)
from lamina.oci.canonical import canonical
from lamina.oci.digest import ChainId, StateId, sha256

Plain = dict[str, Any]
"""JSON data. Values that are the default are left out, so that a new option changes no key of those who do not use it."""

SCRATCH = InputPart(kind="filesystem", id="scratch")
_CONTENT = ("files", "url", "git")  # bytes are bytes, wherever they come from
_OCTAL = r"[0-7]+"
_NUMBER = r"[0-9]+"
_SURROGATE = "[\ud800-\udfff]"


class Selection(msgspec.Struct, frozen=True):
    """Files of an input that an operation reads: their content id stands in the key, their path does not.

    `chmod` / `chown`: modes or owners of the source do not reach the result, so they must not be in the id.
    """

    input: int
    path: str
    wildcard: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlink: bool = True
    dir_contents: bool = True
    chmod: bool = False
    chown: bool = False
    required: bool = True

    @property
    def whole(self) -> bool:
        """The state id of the input may stand for the content id."""
        return self.path in ("", "/") and not (self.include or self.exclude or self.chmod or self.chown)


def selections(op: Op) -> tuple[Selection | None, ...]:
    """One for each action of a FileOp and each mount of an ExecOp, None where it reads no input; () for other operations."""
    if isinstance(op, FileOp):
        return tuple(_copied(action) if isinstance(action, CopyAction) else None for action in op.actions)
    if isinstance(op, ExecOp):
        return tuple(None if m.input is None else Selection(m.input, m.selector) for m in op.mounts)
    return ()


def key_parts(op: Op, root: InputPart | None, selected: Sequence[InputPart | None] = (), watched: Sequence[InputPart] = ()) -> KeyParts:
    """The preimage of an operation's key.

    `root` is input 0, the filesystem that is changed (None for scratch); for a source (image, URL, git) its content id.
    `selected` has a content id for each of `selections(op)`, None for None. `watched` are the answers of `# lamina: watch=` URLs.
    """
    order = _input_order(op)
    inputs = [root or SCRATCH, *(part for index in order if (part := selected[index]) is not None), *watched]
    return KeyParts(schema=KEY_SCHEMA, op=op_parts(op), inputs=tuple(inputs))


def key_of(parts: KeyParts) -> CacheKey:
    """sha256 over the canonical JSON of the parts; of inputs only kind and id count, and all kinds of content are one kind."""
    document = {
        "schema": parts.schema,
        "op": parts.op,
        "inputs": [["files" if part.kind in _CONTENT else part.kind, part.id] for part in parts.inputs],
    }
    return CacheKey(sha256(canonical(document)))


# States: content ids of whole filesystems


def base_state(chain: ChainId | None) -> StateId:
    """Of a base image, by its layers only: a new config or manifest over the same layers is the same filesystem."""
    return _state("base", chain or "")


def state_after(parent: StateId | None, diff: str) -> StateId:
    """Of a filesystem after one layer whose normalised diff has the digest `diff`. An empty diff is a layer too."""
    return _state("layer", parent or base_state(None), diff)


def merge_state(states: Sequence[StateId | None]) -> StateId:
    """Of layers stacked upon another filesystem (COPY --link)."""
    return _state("merge", *(state or base_state(None) for state in states))


def definition_state(key: CacheKey, nonce: str = "") -> StateId:
    """`LAMINA_CUT_OFF=off`: a filesystem is what its producer's key says, whatever its content is.

    A nonce makes it equal to nothing else.
    """
    return _state("definition", key, nonce)


def _state(*words: str) -> StateId:
    return StateId("state:" + hashlib.sha256("\n".join(words).encode()).hexdigest())


# Operations


def op_parts(op: Op) -> Plain:
    """An operation as plain data, inputs left out. All text is well-formed Unicode."""
    plain = _parts(op)
    try:
        canonical(plain)
    except UnicodeEncodeError:
        plain = {name: _well_formed(value) for name, value in plain.items()}
    return plain


def well_formed(text: str) -> str:
    """`text` without lone surrogates: bytes of a Dockerfile that are no UTF-8 become U+FFFD and their number."""
    if text.isascii():
        return text
    return re.sub(_SURROGATE, lambda found: f"\N{REPLACEMENT CHARACTER}<{ord(found[0]) & 0xFF:02x}>", text)


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    return {name: _well_formed(item) for name, item in value.items()} if isinstance(value, dict) else value


def _parts(op: Op) -> Plain:
    if isinstance(op, ExecOp):
        return _exec(op)
    if isinstance(op, FileOp):
        return {"type": "file", "actions": [_action(action) for action in op.actions]}
    if isinstance(op, MergeOp):
        return {"type": "merge"}
    if isinstance(op, ImageOp):
        return {"type": "image"}
    if isinstance(op, ContextOp):
        return {"type": "context"}
    if isinstance(op, HttpOp):
        return {"type": "http", "filename": op.filename}
    if isinstance(op, GitOp):
        return _given(
            type="git",
            subdir=op.subdir,
            git_dir=op.ref or "HEAD" if op.keep_git_dir else "",
            submodules="" if op.submodules else "no",
        )
    assert_never(op)


def _exec(op: ExecOp) -> Plain:
    return {
        "type": "exec",
        "args": list(op.args),
        "env": [_variable(pair) for pair in op.env],
        "cwd": op.cwd,
        "user": op.user,
        "platform": str(op.platform),
    } | _given(
        mounts=[_mount(op.mounts[index]) for index in _input_order(op)],
        network="" if op.network == "default" else op.network,
        security="" if op.security == "sandbox" else op.security,
        hostname=op.hostname,
        hosts=[name for name, _address in op.extra_hosts],
        shm_size=op.shm_size,
        ulimits=[list(limit) for limit in op.ulimits],
        devices=list(op.devices),
    )


def _input_order(op: Op) -> Sequence[int]:
    """The order in which actions or mounts stand in the key. Filesystems are mounted by target, however they were written."""
    if isinstance(op, ExecOp):
        mounts = op.mounts
        plain = [index for index, mount in enumerate(mounts) if mount.type in ("bind", "cache", "tmpfs")]
        plain.sort(key=lambda index: mounts[index].target)
        return [
            *plain,
            *(i for i, m in enumerate(mounts) if m.type == "secret"),
            *(i for i, m in enumerate(mounts) if m.type == "ssh"),
        ]
    return range(len(op.actions)) if isinstance(op, FileOp) else ()


def _mount(mount: ExecMount) -> Plain:
    plain: Plain = {"type": mount.type, "target": mount.target}
    if mount.type in ("bind", "cache"):
        plain |= _given(readonly=mount.readonly, empty=mount.input is None and mount.type == "bind")
    if mount.type == "cache":
        plain |= _cache_identity(mount) | _given(source=mount.input is not None)
        if not (mount.mode is None and mount.uid is None and mount.gid is None):
            plain["owner"] = [0o755 if mount.mode is None else mount.mode, mount.uid or 0, mount.gid or 0]
    elif mount.type == "tmpfs":
        plain |= _given(size=mount.size)
    elif mount.type in ("secret", "ssh"):
        mode = (0o400 if mount.type == "secret" else 0o600) if mount.mode is None else mount.mode
        plain |= {"id": mount.id, "required": mount.required, "owner": [mode, mount.uid or 0, mount.gid or 0]} | _given(env=mount.env)
    return plain


def _cache_identity(mount: ExecMount) -> Plain:
    """Id and sharing of a cache mount do not count, except that the plain default (id = target, or namespace/target) is told from
    everything else. That is BuildKit's rule (solver/llbsolver/ops/exec.go, checkShouldClearCacheOpts)."""
    identifier = mount.cache_id or mount.target
    namespace, slash, rest = identifier.partition("/")
    default = mount.sharing == "shared" and (identifier == mount.target or (bool(slash) and rest == mount.target))
    if not default:
        return {"own": True}
    return {} if identifier == mount.target else _given(namespace=namespace)


def _action(action: FileAction) -> Plain:
    if isinstance(action, CopyAction):
        return {"action": "copy", "name": _base_name(action.source), "dest": action.dest} | _given(
            include=list(action.include),
            exclude=list(action.exclude),
            unpack=action.unpack,
            optional=not action.required,
            literal=not action.wildcard,
            keep_symlink=not action.follow_symlink,
            whole_folder=not action.dir_contents,
            **_attributes(action.owner, action.mode),
        )
    if isinstance(action, MkfileAction):
        data = sha256(action.data)
        return {"action": "mkfile", "path": action.path, "data": data, "mode": action.mode} | _attributes(action.owner, action.chmod)
    return {"action": "mkdir", "path": action.path, "mode": action.mode} | _attributes(action.owner, None)


def _attributes(owner: Owner | None, chmod: str | None) -> Plain:
    """Numbers by value, so that 755 and 0755 are one; names and symbolic modes as text (what a name stands for is in the
    filesystem below, which is in the key).
    """
    plain: Plain = {}
    if owner is not None:
        plain["chown"] = [int(word) if re.fullmatch(_NUMBER, word) else word for word in (owner.user, owner.group) if word is not None]
    if chmod is not None:
        plain["chmod"] = f"{int(chmod, 8):04o}" if re.fullmatch(_OCTAL, chmod) else chmod
    return plain


def _copied(action: CopyAction) -> Selection:
    return Selection(
        input=action.input,
        path=action.source,
        wildcard=action.wildcard,
        include=action.include,
        exclude=action.exclude,
        follow_symlink=action.follow_symlink,
        dir_contents=action.dir_contents,
        chmod=action.mode is not None and re.fullmatch(_OCTAL, action.mode) is not None,
        chown=action.owner is not None,
        required=action.required,
    )


def _base_name(source: str) -> str:
    """A file keeps its name under the destination; the folders above it are no matter."""
    return posixpath.basename(source.rstrip("/")) or "/"


def _variable(pair: str) -> str:
    """`NAME=value`, or `NAME=sha256:…` where the value may be a secret: the parts of a key are stored and shared."""
    name, _, value = pair.partition("=")
    return f"{name}={sha256(value.encode('utf-8', 'surrogateescape'))}" if sensitive(name, value) else pair


def _given(**values: object) -> Plain:
    """Those that are not empty, zero, False or None."""
    return {name: value for name, value in values.items() if value}
