"""What a Dockerfile says, as values: one frozen class per instruction, words unexpanded, each with its span."""

from __future__ import annotations

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.span import Source, Span


class Heredoc(msgspec.Struct, frozen=True):
    """A here-document. `content` has tabs removed when `chomp` (<<-); `expand` is False when the name was quoted."""

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: int = 0
    span: Span | None = None
    raw: str = ""  # as written: what a shell gets that handles the here-document itself


class Command(msgspec.Struct, frozen=True):
    """A command as shell text (`shell=True`, one item) or as a JSON array."""

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """`text` is its own text as BuildKit shows it, continuations joined; `span` covers all its lines, here-documents too."""

    span: Span
    text: str
    comments: tuple[str, ...] = ()  # comment lines right above it, without '#': `# lamina: max-age=1d` lives here


class From(Instruction, frozen=True, kw_only=True):
    base: str
    name: str = ""  # lower case, "" without AS
    platform: str = ""


class Arg(Instruction, frozen=True, kw_only=True):
    """Several in one line are several pairs; value None = declared without one."""

    pairs: tuple[tuple[str, str | None], ...]


class Env(Instruction, frozen=True, kw_only=True):
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False  # ENV key value


class Label(Instruction, frozen=True, kw_only=True):
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class RunMount(msgspec.Struct, frozen=True, kw_only=True):
    """One --mount as written: pairs in order, values unexpanded, None for a bare key. `mounts.evaluate` gives it meaning."""

    pairs: tuple[tuple[str, str | None], ...]
    span: Span


class Run(Instruction, frozen=True, kw_only=True):
    command: Command
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


class CopyFlags(msgspec.Struct, frozen=True, kw_only=True):
    """Flags of COPY and ADD, values unexpanded; None = not given."""

    from_: str | None = None
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str | None = None
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Copy(Instruction, frozen=True, kw_only=True):
    """COPY, and ADD (`add=True`). Heredoc sources are in `heredocs`, in order, and not in `sources`."""

    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    flags: CopyFlags = CopyFlags()
    add: bool = False


class Cmd(Instruction, frozen=True, kw_only=True):
    command: Command


class Entrypoint(Instruction, frozen=True, kw_only=True):
    command: Command


class Shell(Instruction, frozen=True, kw_only=True):
    words: tuple[str, ...]


class Workdir(Instruction, frozen=True, kw_only=True):
    path: str


class User(Instruction, frozen=True, kw_only=True):
    user: str


class Expose(Instruction, frozen=True, kw_only=True):
    ports: tuple[str, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    paths: tuple[str, ...]


class StopSignal(Instruction, frozen=True, kw_only=True):
    signal: str


class Healthcheck(Instruction, frozen=True, kw_only=True):
    """`test` is () for nothing given, ("NONE",), ("CMD", …) or ("CMD-SHELL", text); durations in nanoseconds, 0 = not given."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Onbuild(Instruction, frozen=True, kw_only=True):
    """The trigger's text, as it goes into the image's config."""

    expression: str


class Maintainer(Instruction, frozen=True, kw_only=True):
    name: str


AnyInstruction = (
    From
    | Arg
    | Env
    | Label
    | Run
    | Copy
    | Cmd
    | Entrypoint
    | Shell
    | Workdir
    | User
    | Expose
    | Volume
    | StopSignal
    | Healthcheck
    | Onbuild
    | Maintainer
)


class Stage(msgspec.Struct, frozen=True):
    index: int
    from_: From
    instructions: tuple[AnyInstruction, ...]  # without the FROM

    @property
    def name(self) -> str:
        return self.from_.name


class Document(msgspec.Struct, frozen=True):
    """A parsed Dockerfile. `diagnostics` has all that is wrong with it; with an error among them `stages` may be incomplete."""

    source: Source
    escape: str
    directives: tuple[tuple[str, str, Span], ...]  # (name, value, span): syntax, escape, check
    meta_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(item for item in self.diagnostics if item.severity == "error")
