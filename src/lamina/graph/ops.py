"""The operations of a build graph: frozen values that hold what changes the outcome and nothing else.

`op.key_parts()` (graph/keys.py) turns one into plain data for the cache key. Inputs are numbered; what is an input and
what is an attribute is said at each class. BuildKit's ops.proto is the model; paths are absolute inside the root.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lamina.oci.digest import Digest
from lamina.oci.platform import Platform


class ImageOp(msgspec.Struct, frozen=True):
    """A base image. No inputs. Its filesystem is identified by its chainID, never by `reference`."""

    reference: str
    digest: Digest  # of the manifest (registry, layout) or of the config (images of the store)
    platform: Platform


class ContextOp(msgspec.Struct, frozen=True):
    """Files of the main context (`name` = "context") or of a named directory context. No inputs. Only selections are keyed."""

    name: str


class HttpOp(msgspec.Struct, frozen=True):
    """`ADD https://…`: one file. No inputs. Identified by its bytes; `checksum` makes a request unnecessary on a hit."""

    url: str
    filename: str
    checksum: Digest | None = None


class GitOp(msgspec.Struct, frozen=True):
    """`ADD git…`: a checkout. No inputs. Identified by the commit (and the flags here), not by the URL."""

    url: str
    ref: str = ""
    subdir: str = ""
    keep_git_dir: bool = False
    checksum: str | None = None
    submodules: bool = True


MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]


class ExecMount(msgspec.Struct, frozen=True):
    """One `RUN --mount`. `input` is the index of the input that a bind or cache mount shows, None for an empty one."""

    type: MountType
    target: str
    input: int | None = None
    selector: str = "/"  # path inside the input
    readonly: bool = False
    cache_id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    size: int = 0  # tmpfs, bytes; 0 = no limit
    id: str = ""  # secret or ssh id
    env: str | None = None  # secret given as this variable
    required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class ExecOp(msgspec.Struct, frozen=True):
    """A RUN. Input 0 is the root filesystem (None for scratch); further inputs are shown by bind mounts. Output: the changed root."""

    args: tuple[str, ...]
    env: tuple[str, ...]  # "NAME=value", in order, build arguments included
    cwd: str
    user: str
    platform: Platform
    mounts: tuple[ExecMount, ...] = ()
    network: Literal["default", "none", "host"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    hostname: str = ""
    extra_hosts: tuple[tuple[str, str], ...] = ()  # names count, addresses do not
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    devices: tuple[str, ...] = ()
    proxy_env: tuple[str, ...] = ()  # predefined proxy arguments that no ARG declares: passed on, not in the key
    unnamed_args: tuple[str, ...] = ()  # names of ARGs in `env` that this RUN's text does not mention (for the hint and --arg-scope=named)
    args_in_env: tuple[str, ...] = ()  # names of all build arguments in `env`, so that a reason can say arg-changed


class Owner(msgspec.Struct, frozen=True):
    """`--chown`: a name or number each; None = 0 for the user, and the user's own group (or same number) for the group."""

    user: str
    group: str | None = None


class CopyAction(msgspec.Struct, frozen=True):
    """Copy one source of COPY or ADD. `input` is the index of the input that holds `source`.

    `source` is a path or a pattern (`wildcard`); `include` narrows a directory source to patterns and keeps the parent
    folders (--parents); `exclude` are dockerignore-like patterns relative to the source.
    """

    input: int
    source: str
    dest: str  # a trailing slash means "into this folder"
    wildcard: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    owner: Owner | None = None
    mode: str | None = None  # octal ("755") or symbolic ("u+x"), as BuildKit takes them
    unpack: bool = False  # a local tar archive is extracted
    required: bool = True  # --parents: `include` must match something (plain paths must be there always, wildcards need not match)
    follow_symlink: bool = True  # of the source itself, not inside of folders
    dir_contents: bool = True  # a folder source stands for its contents


class MkfileAction(msgspec.Struct, frozen=True):
    """Write one file (heredoc of COPY / ADD)."""

    path: str
    data: bytes
    mode: int = 0o644
    owner: Owner | None = None
    chmod: str | None = None


class MkdirAction(msgspec.Struct, frozen=True):
    """WORKDIR: make `path` and its parents, owned by `owner` where they are new."""

    path: str
    mode: int = 0o755
    owner: Owner | None = None


FileAction = CopyAction | MkfileAction | MkdirAction


class FileOp(msgspec.Struct, frozen=True):
    """COPY, ADD, WORKDIR. Input 0 is the filesystem that is written onto (None = an empty one); actions in order."""

    actions: tuple[FileAction, ...]


class MergeOp(msgspec.Struct, frozen=True):
    """COPY --link: layers of inputs 1… stacked upon input 0. Pure: its state follows from its inputs, nothing is run or recorded."""


Op = ImageOp | ContextOp | HttpOp | GitOp | ExecOp | FileOp | MergeOp
