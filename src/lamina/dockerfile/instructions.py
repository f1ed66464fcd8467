"""What a Dockerfile says, as values: one frozen class per instruction, words unexpanded, each with its span."""

from __future__ import annotations

from dataclasses import dataclass, field

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.span import Source, Span


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document. `content` has tabs removed when `chomp` (<<-); `expand` is False when the name was quoted."""

    name: str
    content: str
    expand: bool
    chomp: bool
    fd: int = 0
    span: Span | None = field(default=None, compare=False, repr=False)
    raw: str = ""  # as written: what a shell gets that handles the here-document itself


@dataclass(frozen=True, slots=True)
class Command:
    """A command as shell text (`shell=True`, one item) or as a JSON array."""

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """`text` is its own text as BuildKit shows it, continuations joined; `span` covers all its lines, here-documents too."""

    span: Span
    text: str
    comments: tuple[str, ...] = ()  # comment lines right above it, without '#': `# lamina: max-age=1d` lives here


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    base: str
    name: str = ""  # lower case, "" without AS
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """Several in one line are several pairs; value None = declared without one."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False  # ENV key value


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """One --mount as written: pairs in order, values unexpanded, None for a bare key. `mounts.evaluate` gives it meaning."""

    pairs: tuple[tuple[str, str | None], ...]
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    command: Command
    mounts: tuple[RunMount, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFlags:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """COPY, and ADD (`add=True`). Heredoc sources are in `heredocs`, in order, and not in `sources`."""

    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...] = ()
    flags: CopyFlags = CopyFlags()
    add: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """`test` is () for nothing given, ("NONE",), ("CMD", …) or ("CMD-SHELL", text); durations in nanoseconds, 0 = not given."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Onbuild(Instruction):
    """The trigger's text, as it goes into the image's config."""

    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
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


@dataclass(frozen=True, slots=True)
class Stage:
    index: int
    from_: From
    instructions: tuple[AnyInstruction, ...]  # without the FROM

    @property
    def name(self) -> str:
        return self.from_.name


@dataclass(frozen=True, slots=True)
class Document:
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
