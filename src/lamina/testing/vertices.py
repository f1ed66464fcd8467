"""Small builders of operations and vertices, for tests of whatever stands on the graph."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from lamina.graph.ops import ContextOp, CopyAction, ExecMount, ExecOp, FileOp, ImageOp, MergeOp, MkdirAction, Op
from lamina.graph.vertex import Freshness, Step, Vertex
from lamina.oci.digest import Digest
from lamina.oci.platform import Platform

AMD64 = Platform("linux", "amd64")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def exec_op(command: str = "make", *mounts: ExecMount, env: tuple[str, ...] = (), **fields: Any) -> ExecOp:
    """`RUN command` in shell form, in / as root on linux/amd64; `env` is added to PATH."""
    op = ExecOp(args=("/bin/sh", "-c", command), env=(PATH, *env), cwd="/", user="", platform=AMD64, mounts=mounts)
    return replace(op, **fields)


def copy_op(source: str = "/a.txt", dest: str = "/a.txt", **fields: Any) -> FileOp:
    """`COPY source dest`; the source is in input 1."""
    return FileOp((CopyAction(1, source, dest, **fields),))


def step(text: str, *, stage: str = "", number: int = 0, index: int = 1, line: int = 1) -> Step:
    return Step(stage=number, stage_name=stage, index=index, total=index, line=line, text=text)


def vertex(op: Op, *inputs: Vertex | None, text: str = "", **freshness: Any) -> Vertex:
    return Vertex(op, inputs, Freshness(**freshness), (step(text),) if text else (), text)


def image(reference: str = "debian:12") -> Vertex:
    return vertex(ImageOp(reference, Digest("sha256:" + "0" * 64), AMD64), text=f"FROM {reference}")


def context(name: str = "context") -> Vertex:
    return vertex(ContextOp(name))


def run(root: Vertex | None, command: str = "make", *mounts: ExecMount, inputs: tuple[Vertex, ...] = (), **freshness: Any) -> Vertex:
    return vertex(exec_op(command, *mounts), root, *inputs, text=f"RUN {command}", **freshness)


def copy(root: Vertex | None, files: Vertex, source: str = "/a.txt", dest: str = "/a.txt", **freshness: Any) -> Vertex:
    return vertex(copy_op(source, dest), root, files, text=f"COPY {source} {dest}", **freshness)


def workdir(root: Vertex | None, path: str) -> Vertex:
    return vertex(FileOp((MkdirAction(path),)), root, text=f"WORKDIR {path}")


def merge(*inputs: Vertex) -> Vertex:
    return vertex(MergeOp(), *inputs)
