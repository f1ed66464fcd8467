"""COPY and ADD -> FileOp; ADD's URLs and repositories -> sources of their own."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, urlsplit

from lamina.diagnostics.errors import located
from lamina.dockerfile.instructions import Copy, Heredoc
from lamina.dockerfile.lower.giturl import GitSource, parse_git
from lamina.dockerfile.lower.stage import Lowering, owner
from lamina.dockerfile.lower.values import LoweringError, ascii_url
from lamina.dockerfile.words import Expander
from lamina.graph.ops import CopyAction, FileOp, HttpOp, MergeOp, MkfileAction, Owner
from lamina.graph.vertex import Freshness, Step, Vertex
from lamina.oci.digest import parse_digest

_BODY = Expander("\\", quotes=False)
_WILDCARD = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
_SYMBOLIC = r"[ugoa]*(?:[-+=][rwxXst]*)+(?:,[ugoa]*(?:[-+=][rwxXst]*)+)*\Z"


def lower_copy(copy: Copy, stage: Lowering, step: Step, freshness: Freshness, name: str) -> Vertex:
    flags, keyword = copy.flags, "ADD" if copy.add else "COPY"
    chown = stage.expand(flags.chown, copy.span) if flags.chown else ""
    chmod = stage.expand(flags.chmod, copy.span) if flags.chmod else ""
    exclude = tuple(stage.expand(pattern, copy.span) for pattern in flags.exclude)
    checksum = stage.expand(flags.checksum, copy.span) if flags.checksum else ""
    sources = [stage.expand(text, copy.span) for text in copy.sources]
    dest = stage.expand(copy.dest, copy.span)
    with located(copy.span):
        mode = _mode(chmod)
        link = flags.link and mode is None
        made = _Actions(copy, stage, None if link else stage.filesystem, owner(chown), mode, exclude, stage.absolute(dest))
        if checksum:
            _check_checksum(checksum, sources)
        for source in sources:
            made.add_source(source, checksum)
        for heredoc in copy.heredocs:
            made.add_heredoc(heredoc.name, *_body(heredoc, stage))
    vertex = stage.graph.add(FileOp(tuple(made.actions)), tuple(made.inputs), freshness, step, name)
    shown = [*sources, *(f"<<{heredoc.name}" for heredoc in copy.heredocs), dest]
    options = (" --parents" if flags.parents else "") + (f" --chown={chown}" if chown else "") + (f" --chmod={chmod}" if chmod else "")
    stage.commit(f"{keyword}{options} {' '.join(shown)} # buildkit", vertex, layer=True)
    stage.filesystem = (
        stage.graph.add(MergeOp(), (stage.filesystem, vertex), name=f"{name} (link)") if link and stage.filesystem else vertex
    )
    return vertex


def _body(heredoc: Heredoc, stage: Lowering) -> tuple[str, frozenset[str]]:
    """The text and the variables in it. They are expanded unless the name was quoted; quotes stay, and the escape is a backslash whatever
    the directive says."""
    if not heredoc.expand:
        return heredoc.content, frozenset()
    found = _BODY.word(heredoc.content, stage.environment.values)
    return found.result, found.matched | found.unmatched


class _Actions:
    """Collects the actions of one instruction, each with the input that it reads."""

    def __init__(
        self,
        copy: Copy,
        stage: Lowering,
        root: Vertex | None,
        owner: Owner | None,
        mode: str | None,
        exclude: tuple[str, ...],
        dest: str,
    ) -> None:
        self._copy, self._stage, self._owner, self._mode, self._exclude, self._dest = copy, stage, owner, mode, exclude, dest
        self.inputs: list[Vertex | None] = [root]
        self.actions: list[CopyAction] = []

    def _input(self, vertex: Vertex | None) -> int:
        if vertex in self.inputs[1:]:
            return self.inputs.index(vertex, 1)
        self.inputs.append(vertex)
        return len(self.inputs) - 1

    def add_source(self, source: str, checksum: str) -> None:
        copy = self._copy
        git = parse_git(source)
        if git is not None or source.startswith(("http://", "https://")):
            if not copy.add:
                raise LoweringError(f"COPY cannot fetch {source}", hint="ADD takes URLs and git repositories")
            if git is not None:
                self._add_git(git, checksum)
            else:
                self._add_url(source, checksum)
            return
        vertex = self._stage.find_source(copy.flags.from_ or "", copy.span, False)
        include: tuple[str, ...] = ()
        required = True
        path = source
        if copy.flags.parents:
            path, include = _pivot(source)
            required = not _WILDCARD.search(source)
        unpack = copy.add and copy.flags.unpack is not False
        self.actions.append(
            CopyAction(
                input=self._input(vertex),
                source=posixpath.normpath("/" + path.lstrip("/")),
                dest=self._dest,
                include=include,
                exclude=self._exclude,
                owner=self._owner,
                mode=self._mode,
                unpack=unpack,
                required=required,
            )
        )

    def _add_url(self, url: str, checksum: str) -> None:
        filename, url = _filename(url), ascii_url(url)
        op = HttpOp(url, filename, parse_digest(checksum) if checksum else None)
        self._add_whole(self._stage.graph.add(op, name=f"ADD {url}"), f"/{filename}", unpack=self._copy.flags.unpack is True)

    def _add_git(self, source: GitSource, checksum: str) -> None:
        op = source.operation(self._copy.flags.keep_git_dir, checksum)
        self._add_whole(self._stage.graph.add(op, name=f"ADD {op.url}"), "/", exclude=self._exclude)

    def add_heredoc(self, name: str, content: str, variables: frozenset[str]) -> None:
        """Reasons read the vertex's name: it says what the document depends on."""
        mkfile = MkfileAction(path=f"/{name}", data=content.encode("utf-8", "surrogateescape"))
        with_them = f" with ${', $'.join(sorted(variables))}" if variables else ""
        vertex = self._stage.graph.add(FileOp((mkfile,)), (None,), name=f"[internal] preparing inline document{with_them}")
        self._add_whole(vertex, f"/{name}")

    def _add_whole(self, vertex: Vertex, source: str, *, unpack: bool = False, exclude: tuple[str, ...] = ()) -> None:
        self.actions.append(
            CopyAction(
                input=self._input(vertex),
                source=source,
                dest=self._dest,
                wildcard=False,
                exclude=exclude,
                owner=self._owner,
                mode=self._mode,
                unpack=unpack,
                follow_symlink=False,
                dir_contents=False,
            )
        )


def _filename(url: str) -> str:
    """The last part of the URL's path; what cannot name a file gives __unnamed__."""
    try:
        name = posixpath.basename(unquote(urlsplit(url).path).rstrip("/"))
    except ValueError:
        name = ""
    return "__unnamed__" if name in ("", ".", "..") or "\0" in name else name


def _pivot(source: str) -> tuple[str, tuple[str, ...]]:
    """--parents: what stands after /./ is kept with its folders."""
    before, found, after = source.partition("/./")
    if not found:
        before, after = "/", source
    return before or "/", (posixpath.normpath(after).lstrip("/") if after else "",)


def _mode(chmod: str) -> str | None:
    if not chmod:
        return None
    if re.fullmatch("[0-7]+", chmod) and int(chmod, 8) <= 0o7777:
        return chmod
    if re.match(_SYMBOLIC, chmod) and not chmod.isdecimal():
        return chmod
    raise LoweringError(f"--chmod={chmod} is neither an octal mode up to 7777 nor symbolic", hint="for example --chmod=755 or --chmod=u+x")


def _check_checksum(checksum: str, sources: list[str]) -> None:
    if len(sources) != 1:
        raise LoweringError("--checksum takes exactly one source")
    if parse_git(sources[0]) is None:
        if not sources[0].startswith(("http://", "https://")):
            raise LoweringError("--checksum works with http(s) and git sources only")
        parse_digest(checksum)
