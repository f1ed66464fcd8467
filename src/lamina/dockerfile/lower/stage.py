"""The stage that is being lowered: filesystem so far, variables, config, history."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

import msgspec

from lamina.diagnostics.errors import located
from lamina.diagnostics.span import Span
from lamina.dockerfile.lower.graph import Graph
from lamina.dockerfile.lower.scope import PATH, Environment, pairs_of
from lamina.dockerfile.lower.values import Options
from lamina.dockerfile.words import Expander
from lamina.graph.ops import Owner
from lamina.graph.vertex import Step, Vertex
from lamina.oci.config import ContainerConfig, History, ImageConfig
from lamina.oci.platform import Platform

COMMENT = "buildkit.dockerfile.v0"


def empty_image(platform: Platform) -> ImageConfig:
    """What `FROM scratch` begins with."""
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        config=ContainerConfig(env=(f"PATH={PATH}",), working_dir="/"),
    )


class Lowering(msgspec.Struct):
    """`environment` is what RUN sees and words expand from: ENV and ARG. `arguments` are those ARGs, in order of first declaration."""

    graph: Graph
    options: Options
    expander: Expander
    meta: dict[str, str]
    image: ImageConfig
    filesystem: Vertex | None
    platform: Platform
    environment: Environment
    arguments: dict[str, str | None]
    made: list[Vertex | None]  # for each history entry after the base's own
    find_source: Callable[[str, Span, bool], Vertex | None]
    command_set: bool = False
    ssh_mounts: int = 0
    uses: dict[str, list[bool]] = msgspec.field(default_factory=dict)  # build argument -> for each RUN that has it: does its text name it

    @property
    def config(self) -> ContainerConfig:
        return self.image.config

    def set_config(self, **values: object) -> None:
        self.image = msgspec.structs.replace(self.image, config=msgspec.structs.replace(self.image.config, **values))

    def expand(self, text: str, span: Span) -> str:
        with located(span):
            return self.expander.word(text, self.environment.values).result

    def expand_document(self, text: str, span: Span) -> str:
        """A here-document's body: variables only, quotes are text, the escape is always a backslash."""
        with located(span):
            return Expander("\\", quotes=False).word(text, self.environment.values).result

    def expand_words(self, text: str, span: Span) -> list[str]:
        with located(span):
            return self.expander.words(text, self.environment.values)

    def commit(self, created_by: str, vertex: Vertex | None = None, *, layer: bool = False) -> None:
        entry = History(created_by=created_by, comment=COMMENT, empty_layer=not layer)
        self.image = msgspec.structs.replace(self.image, history=(*self.image.history, entry))
        self.made.append(vertex)

    def workdir(self) -> str:
        return posixpath.normpath(posixpath.join("/", self.config.working_dir)).replace("//", "/")

    def directory(self) -> str:
        """The working directory of a command: as WORKDIR wrote it, a trailing slash included."""
        path = self.config.working_dir
        return path if path.startswith("/") else self.workdir()

    def absolute(self, path: str) -> str:
        """Below the working directory where it is relative; a slash or /. at the end stays as it is written."""
        joined = path if path.startswith("/") else posixpath.join(self.workdir(), path)
        clean = posixpath.normpath("/" + joined.lstrip("/"))
        if path.endswith("/.") or ((path.endswith("/") or path in (".", "")) and clean != "/"):
            clean = clean.rstrip("/") + ("/." if path.endswith("/.") else "/")
        return clean

    def begin(self) -> None:
        """PATH is always set. Variables of the base: its ENV comes after ARGs that were inherited, as in BuildKit."""
        env = self.config.env or ()
        if self.platform.os != "windows" and not any(line.partition("=")[0] == "PATH" for line in env):
            self.set_config(env=(*env, f"PATH={PATH}"))
        for name, value in pairs_of(self.config.env or ()).items():
            self.environment.set(name, value)


def set_env(lines: tuple[str, ...], name: str, value: str) -> tuple[str, ...]:
    """An image's Env with one variable set: in its old place, else at the end."""
    entry = f"{name}={value}"
    found = [n for n, line in enumerate(lines) if line.partition("=")[0] == name]
    return tuple(entry if n == found[0] else line for n, line in enumerate(lines)) if found else (*lines, entry)


def owner(text: str) -> Owner | None:
    """USER:GROUP of --chown or USER; root, and an empty half beside a colon, are number 0 (llb.WithUser)."""
    user, colon, group = text.partition(":")
    return Owner(_zero(user), _zero(group) if colon else None) if text else None


def _zero(word: str) -> str:
    return "0" if word in ("", "root") else word


def one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()


def step_name(step: Step, count_stages: int) -> str:
    """[build 3/7] RUN make. A stage without a name is called by its number, where there are several."""
    where = f"{step.stage_name} " if step.stage_name else f"stage-{step.stage} " if count_stages > 1 else ""
    return f"[{where}{step.index}/{step.total}] {'ONBUILD ' if step.trigger else ''}{one_line(step.text)}"
