"""RUN: an ExecOp becomes a SandboxSpec over the layers of its inputs; what it changes lands in the active layer's upper."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.engine.cachemounts import CacheMounts
from lamina.engine.results import Files, Filesystem, Result
from lamina.engine.runners.files import run_file_op
from lamina.engine.secrets import Secrets, agent_socket
from lamina.graph.ops import CopyAction, ExecMount, ExecOp, FileOp
from lamina.layer.flavour import Flavour
from lamina.sandbox.protocols import Bind, CancelToken, OnOutput, Overlay, Sandbox, SandboxReport, SandboxSpec, SecretFile, SubMount, Tmpfs


class RunFailed(LaminaError):
    """The workload ended with a code other than 0; the command's exit code is passed on."""

    code = "engine/run-failed"


class MountSourceMissing(LaminaError):
    code = "engine/mount-source"


class ExecSurroundings(msgspec.Struct, frozen=True):
    """What a RUN needs besides its operation. `lowers(fs)` gives the layer directories of a filesystem, bottom first."""

    sandbox: Sandbox
    flavour: Flavour
    lowers: Callable[[Filesystem], Sequence[Path]]
    secrets: Secrets
    agents: Mapping[str, Path]
    cache_mounts: CacheMounts
    allow_insecure: bool
    reset_cache_mounts: bool  # a forced step starts with empty cache mounts, as in BuildKit
    stub: str = ""  # as in SandboxSpec


def run_exec(
    op: ExecOp,
    root: Filesystem | None,
    inputs: Sequence[Result | None],
    scratch: Path,
    upper: Path,
    work: Path,
    around: ExecSurroundings,
    on_output: OnOutput,
    cancel: CancelToken,
) -> SandboxReport:
    """Run `op`; changes of the root filesystem end up in `upper`. `scratch` is a folder of this step's own, removed by the caller.

    `inputs` is the vertex's whole input list (index 0 is the root). Raises RunFailed, SecretUnavailable, SandboxSetupFailed.
    """
    if op.security == "insecure" and not around.allow_insecure:
        raise LaminaError("RUN --security=insecure is not permitted", hint="give --allow security.insecure")
    if op.devices:
        raise LaminaError("RUN --device: devices are not available in this sandbox", hint="remove --device")
    with ExitStack() as stack:
        parts = _Mounts(op, inputs, scratch, around, stack, cancel)
        for number, mount in enumerate(op.mounts):
            parts.add(number, mount)
        lowers = tuple(reversed(list(around.lowers(root)))) if root is not None else ()
        spec = SandboxSpec(
            root=Overlay(lowers, upper, work),
            argv=op.args,
            env=(*op.env, *op.proxy_env, *parts.env),
            cwd=op.cwd or "/",
            user=op.user,
            hostname=op.hostname or "buildkitsandbox",
            hosts=op.extra_hosts,
            network="none" if op.network == "none" else "host",
            insecure=op.security == "insecure",
            binds=tuple(parts.binds),
            submounts=tuple(parts.submounts),
            tmpfs=tuple(parts.tmpfs),
            secrets=tuple(parts.secrets),
            shm_size=op.shm_size or 64 << 20,
            rlimits=op.ulimits,
            stub=around.stub,
        )
        return around.sandbox.run(spec, on_output, cancel)


class _Mounts:
    """Collects what the `--mount`s of one RUN ask for."""

    def __init__(
        self, op: ExecOp, inputs: Sequence[Result | None], scratch: Path, around: ExecSurroundings, stack: ExitStack, cancel: CancelToken
    ) -> None:
        self.binds: list[Bind] = []
        self.submounts: list[SubMount] = []
        self.tmpfs: list[Tmpfs] = []
        self.secrets: list[SecretFile] = []
        self.env: list[str] = []
        self._op, self._inputs, self._scratch, self._around, self._stack, self._cancel = op, inputs, scratch, around, stack, cancel

    def add(self, number: int, mount: ExecMount) -> None:
        match mount.type:
            case "bind":
                self._bind(number, mount)
            case "cache":
                self._cache(number, mount)
            case "tmpfs":
                self.tmpfs.append(Tmpfs(mount.target, mount.size))
            case "secret":
                self._secret(mount)
            case "ssh":
                self._ssh(mount)

    def _folder(self, number: int, name: str) -> Path:
        folder = self._scratch / f"mount{number}" / name
        folder.mkdir(parents=True)
        return folder

    def _bind(self, number: int, mount: ExecMount) -> None:
        source = None if mount.input is None else self._inputs[mount.input]
        overlay = Overlay(self._lowers(number, mount, source), self._folder(number, "upper"), self._folder(number, "work"))
        selector = "/" if isinstance(source, Files) else mount.selector
        if isinstance(source, Files) and self._is_file(source, mount.selector):
            selector = "/file"
        self.submounts.append(SubMount(overlay, mount.target, selector, mount.readonly))

    def _lowers(self, number: int, mount: ExecMount, source: Result | None) -> tuple[Path, ...]:
        if isinstance(source, Filesystem):
            return tuple(reversed(list(self._around.lowers(source))))
        folder = self._folder(number, "files")
        if source is not None:
            self._materialise(source, mount.selector, folder)
        return (folder / "diff",) if (folder / "diff").is_dir() else ()

    def _materialise(self, source: Files, selector: str, folder: Path) -> None:
        """Files of a context are shown as a copy: with owner root, canonical modes and without what is ignored."""
        assert source.tree is not None
        name = selector.strip("/").encode("utf-8", "surrogateescape")
        resolved = source.tree.resolve(name)
        if resolved is None:
            raise MountSourceMissing(f"mount source {selector!r} is not in the {source.label}")
        dest = "/file" if self._is_file(source, selector) else "/"
        action = CopyAction(input=1, source="/" + resolved.decode("utf-8", "surrogateescape"), dest=dest, wildcard=False)
        run_file_op(FileOp((action,)), None, (None, source.tree), folder, self._around.flavour)

    @staticmethod
    def _is_file(source: Files, selector: str) -> bool:
        from lamina.layer.entry import Kind

        assert source.tree is not None
        resolved = source.tree.resolve(selector.strip("/").encode("utf-8", "surrogateescape"))
        entry = None if resolved is None else source.tree.entry(resolved)
        return entry is not None and entry.kind is not Kind.DIRECTORY

    def _cache(self, number: int, mount: ExecMount) -> None:
        """As in BuildKit: what a cache mount begins with (a folder with an owner and a mode, files of `from=`) is part of its identity.

        With an owner or a mode it begins as an empty folder, whatever `from=` is; the lowering gives those to whole sources only.
        """
        source = None if mount.input is None else self._inputs[mount.input]
        dressed = mount.mode is not None or mount.uid is not None or mount.gid is not None
        identifier = mount.cache_id or mount.target
        if dressed:
            identifier += f" mode={0o755 if mount.mode is None else mount.mode:o} owner={mount.uid or 0}:{mount.gid or 0}"
        if source is not None:
            identifier += f" from={source.state if isinstance(source, Filesystem) else source.id or source.label}"
        data, _ = self._stack.enter_context(
            self._around.cache_mounts.hold(
                identifier,
                mount.sharing,
                self._cancel,
                mode=0o755 if mount.mode is None else mount.mode,
                uid=mount.uid or 0,
                gid=mount.gid or 0,
                reset=self._around.reset_cache_mounts,
            )
        )
        if source is None or dressed:
            self.binds.append(Bind(data, mount.target, mount.readonly))
            return
        # The source's files lie below; what steps write stays in the cache directory's own upper.
        lowers = self._lowers(number, mount, source)
        # The work folder is new each time: a volatile overlay leaves a mark in it that forbids the next mount.
        upper, work = data / "upper", self._folder(number, "work")
        if not upper.exists():
            upper.mkdir(exist_ok=True)
            if lowers:  # the root of an overlay has the upper's attributes
                from shutil import copystat  # it brings all archive formats with it

                copystat(lowers[0], upper)
        selector = "/" if isinstance(source, Files) else mount.selector
        self.submounts.append(SubMount(Overlay(lowers, upper, work), mount.target, selector, mount.readonly))

    def _secret(self, mount: ExecMount) -> None:
        data = self._around.secrets.read(mount.id, required=mount.required)
        if data is None:
            return
        if mount.env is not None:
            if b"\0" in data:
                raise LaminaError(f"secret {mount.id!r} holds a zero byte and cannot be given as ${mount.env}")
            self.env.append(f"{mount.env}={os.fsdecode(data)}")
        if mount.env is None or mount.target:
            mode = 0o400 if mount.mode is None else mount.mode
            self.secrets.append(SecretFile(posixpath.join(self._op.cwd, mount.target), data, mode, mount.uid or 0, mount.gid or 0))

    def _ssh(self, mount: ExecMount) -> None:
        socket = self._stack.enter_context(agent_socket(self._around.agents, mount.id or "default", required=mount.required))
        if socket is None:
            return
        self.binds.append(Bind(socket, posixpath.join(self._op.cwd, mount.target), readonly=False))
