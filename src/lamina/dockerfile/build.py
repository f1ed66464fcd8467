"""One logical line as one typed instruction."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.diagnostics.span import Source, Span
from lamina.dockerfile.durations import parse_duration
from lamina.dockerfile.flags import Flags, parse_flags
from lamina.dockerfile.instructions import (
    AnyInstruction,
    Arg,
    Cmd,
    Command,
    Copy,
    CopyFlags,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Label,
    Maintainer,
    Onbuild,
    Run,
    RunMount,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lamina.dockerfile.lexer import LogicalLine, heredoc_marker
from lamina.dockerfile.mounts import MountError, parse_device, split_mount
from lamina.dockerfile.splitting import Parts, SplitError, Word, json_words, split_line, split_once, split_spaces, split_words
from lamina.dockerfile.words import SPACES, ExpansionError

KEYWORDS = (
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)
_REGEX_SPACES = "\t\n\f\r "
_MIN_HEALTH_DURATION = 1_000_000  # nanoseconds; Docker's container.MinimumDuration


class Node(msgspec.Struct, frozen=True):
    """A line with its arguments split the way its keyword asks for. `pairs` is for ENV and LABEL, `inner` for ONBUILD."""

    keyword: str  # upper case
    parts: Parts
    args: tuple[Word, ...] = ()
    pairs: tuple[tuple[Word, str], ...] = ()
    json: bool = False
    legacy: bool = False
    inner: Node | None = None


def read_node(text: str, start: int, escape: str, nested: bool = False) -> Node:
    """Split text[start:]. Raises SplitError for what BuildKit's parser phase refuses. An ONBUILD in an ONBUILD is left alone."""
    parts = split_line(text, start)
    keyword = parts.keyword.text.upper()
    rest = parts.rest
    if keyword in ("RUN", "CMD", "ENTRYPOINT", "SHELL"):
        return _maybe_json(keyword, parts, rest)
    if keyword in ("COPY", "ADD", "VOLUME"):
        listed = json_words(rest)
        return Node(keyword, parts, tuple(split_spaces(rest) if listed is None else listed), json=listed is not None)
    if keyword in ("FROM", "EXPOSE"):
        return Node(keyword, parts, tuple(split_spaces(rest)))
    if keyword in ("ENV", "LABEL"):
        return _pairs(keyword, parts, escape)
    if keyword == "ARG":
        return Node(keyword, parts, tuple(split_words(rest, escape)))
    if keyword == "HEALTHCHECK":
        return _health(parts)
    if keyword == "ONBUILD":
        return Node(keyword, parts, inner=read_node(text, rest.start, escape, nested=True) if rest.text and not nested else None)
    return Node(keyword, parts, (rest,) if rest.text else ())


def _maybe_json(keyword: str, parts: Parts, rest: Word) -> Node:
    listed = json_words(rest) if rest.text else None
    if listed is None:
        return Node(keyword, parts, (rest,) if rest.text else ())
    return Node(keyword, parts, tuple(listed), json=True)


def _health(parts: Parts) -> Node:
    rest = parts.rest
    if not rest.text:
        return Node("HEALTHCHECK", parts)
    width = next((index for index, char in enumerate(rest.text) if char in SPACES), len(rest.text))
    kind = Word(rest.text[:width], rest.start, rest.start + width)
    command = rest.text[width:].lstrip(SPACES)
    tail = Word(command, rest.end - len(command), rest.end)
    node = _maybe_json("HEALTHCHECK", parts, tail)
    return Node("HEALTHCHECK", parts, (kind, *node.args), json=node.json)


def _pairs(keyword: str, parts: Parts, escape: str) -> Node:
    words = split_words(parts.rest, escape)
    if not words:
        return Node(keyword, parts)
    if "=" not in words[0].text:
        halves = split_once(parts.rest)
        if halves is None:
            word = words[0]
            raise SplitError(
                "dockerfile/missing-value",
                f"{keyword} {word.text} lacks a value",
                word.start,
                word.end,
                f"{keyword} {word.text}=VALUE",
            )
        return Node(keyword, parts, pairs=((halves[0], halves[1].text),), legacy=True)
    pairs: list[tuple[Word, str]] = []
    for word in words:
        key, equals, value = word.text.partition("=")
        if not equals:
            hint = "every item is name=value; put double quotes around a value with blanks"
            raise SplitError("dockerfile/missing-value", f'"{word.text}" has no "="', word.start, word.end, hint)
        pairs.append((Word(key, word.start, word.start + len(key)), value))
    return Node(keyword, parts, pairs=tuple(pairs))


class _Context(msgspec.Struct, frozen=True):
    node: Node
    line: LogicalLine
    source: Source
    heredocs: tuple[Heredoc, ...]
    span: Span

    @property
    def text(self) -> str:
        return self.line.text.strip(SPACES)

    def flags(self) -> Flags:
        return parse_flags(self.node.keyword, self.node.parts.flags)

    def fault(self, code: str, message: str, word: Word | None = None, hint: str | None = None) -> SplitError:
        """A fault at `word`, or at the keyword."""
        word = self.node.parts.keyword if word is None else word
        return SplitError(f"dockerfile/{code}", message, word.start, word.end, hint)

    def one(self) -> Word:
        if not self.node.args:
            raise self.fault("missing-argument", f"{self.node.keyword} needs an argument")
        return self.node.args[0]

    def some(self) -> tuple[Word, ...]:
        if not self.node.args:
            raise self.fault("missing-argument", f"{self.node.keyword} needs at least one argument")
        return self.node.args

    def command(self) -> Command:
        words = tuple(word.text for word in self.node.args)
        return Command(words, not self.node.json, self.heredocs)


def build(node: Node, line: LogicalLine, source: Source, heredocs: tuple[Heredoc, ...], span: Span) -> AnyInstruction:
    """Give a line its type. Raises SplitError for what BuildKit's instructions phase refuses."""
    context = _Context(node, line, source, heredocs, span)
    maker = _MAKERS.get(node.keyword)
    if maker is None:
        word = node.parts.keyword
        near = nearest(node.keyword, KEYWORDS)
        raise context.fault("unknown-instruction", f"unknown instruction {word.text}", word, f"did you mean {near}?" if near else None)
    return maker(context)


def _from(c: _Context) -> From:
    args = c.node.args
    rest = c.node.parts.rest
    name = ""
    if len(args) == 3 and args[1].text.lower() == "as":
        name = args[2].text.lower()
        if not re.match(r"[a-z][a-z0-9\-_.]*\Z", name):
            raise c.fault(
                "bad-stage-name",
                f'"{args[2].text}" cannot name a stage',
                args[2],
                "letters, digits, - _ and . with a letter first",
            )
    elif len(args) != 1:
        if not args:
            raise c.fault("bad-from", "FROM needs an image", None, "FROM image [AS name]")
        comment = next((word for word in args if word.text.startswith("#")), None)
        if comment:
            raise c.fault("bad-from", "a comment must stand on a line of its own", comment)
        raise c.fault(
            "bad-from",
            "FROM takes an image, or an image AS a name",
            Word(rest.text, args[1].start, rest.end),
            "FROM image [AS name]",
        )
    flags = c.flags()
    return From(span=c.span, text=c.text, comments=c.line.comments, base=args[0].text, name=name, platform=flags.string("platform") or "")


def _arg(c: _Context) -> Arg:
    pairs: list[tuple[str, str | None]] = []
    for word in c.some():
        key, equals, value = word.text.partition("=")
        if not key:
            raise c.fault("blank-name", "an ARG needs a name", word)
        pairs.append((key, value if equals else None))
    return Arg(span=c.span, text=c.text, comments=c.line.comments, pairs=tuple(pairs))


def _checked_pairs(c: _Context) -> tuple[tuple[str, str], ...]:
    c.flags()
    if not c.node.pairs:
        raise c.fault("missing-argument", f"{c.node.keyword} needs at least one argument")
    for key, _ in c.node.pairs:
        if not key.text:
            raise c.fault("blank-name", f"{c.node.keyword} needs a name before the =", Word("", key.start, key.start + 1))
    return tuple((key.text, value) for key, value in c.node.pairs)


def _env(c: _Context) -> Env:
    return Env(span=c.span, text=c.text, comments=c.line.comments, pairs=_checked_pairs(c), legacy=c.node.legacy)


def _label(c: _Context) -> Label:
    return Label(span=c.span, text=c.text, comments=c.line.comments, pairs=_checked_pairs(c), legacy=c.node.legacy)


def _run(c: _Context) -> Run:
    flags = c.flags()
    mounts: list[RunMount] = []
    for value, word in flags.values.get("mount", ()):
        try:
            mounts.append(RunMount(pairs=split_mount(value), span=c.line.span(c.source, word.start, word.end)))
        except MountError as error:
            raise c.fault("mount", error.message, word, error.hint) from None
    for value, word in flags.values.get("device", ()):
        try:
            parse_device(value)
        except MountError as error:
            raise c.fault("device", error.message, word, error.hint) from None
    network = flags.string("network")
    if network is not None and network not in ("default", "none", "host"):
        raise c.fault("bad-network", f'there is no network mode "{network}"', flags.word("network"), "default, none or host")
    security = flags.string("security")
    if security is not None and security not in ("sandbox", "insecure"):
        raise c.fault("bad-security", f'there is no security mode "{security}"', flags.word("security"), "sandbox or insecure")
    return Run(
        span=c.span,
        text=c.text,
        comments=c.line.comments,
        command=c.command(),
        mounts=tuple(mounts),
        network=network or "",
        security=security or "",
        devices=flags.strings("device"),
    )


def _copy(c: _Context) -> Copy:
    keyword = c.node.keyword
    args = c.node.args
    if len(args) < 2:
        message = f"{keyword} needs a source and a destination"
        raise c.fault("missing-argument", message, args[0] if args else None, f"{keyword} source… destination")
    flags = c.flags()
    if _marker(args[-1]):
        raise c.fault("bad-heredoc", f"{keyword} cannot write to a here-document", args[-1])
    bodies = {heredoc.name: heredoc for heredoc in c.heredocs}
    sources: list[str] = []
    heredocs: list[Heredoc] = []
    for word in args[:-1]:
        marker = _marker(word)
        if marker is None:
            sources.append(word.text)
        else:
            heredocs.append(bodies.get(marker.name, marker))
    copy_flags = CopyFlags(
        from_=flags.string("from"),
        chown=flags.string("chown"),
        chmod=flags.string("chmod"),
        link=flags.boolean("link") or False,
        parents=flags.boolean("parents") or False,
        exclude=flags.strings("exclude"),
        checksum=flags.string("checksum"),
        keep_git_dir=flags.boolean("keep-git-dir"),
        unpack=flags.boolean("unpack"),
    )
    return Copy(
        span=c.span,
        text=c.text,
        comments=c.line.comments,
        sources=tuple(sources),
        dest=args[-1].text,
        heredocs=tuple(heredocs),
        flags=copy_flags,
        add=keyword == "ADD",
    )


def _marker(word: Word) -> Heredoc | None:
    try:
        return heredoc_marker(word.text)
    except ExpansionError:
        return None


def _cmd(c: _Context) -> Cmd:
    c.flags()
    return Cmd(span=c.span, text=c.text, comments=c.line.comments, command=c.command())


def _entrypoint(c: _Context) -> Entrypoint:
    c.flags()
    return Entrypoint(span=c.span, text=c.text, comments=c.line.comments, command=c.command())


def _shell(c: _Context) -> Shell:
    c.flags()
    words = c.some()
    if not c.node.json:
        hint = 'SHELL ["' + '", "'.join(words[0].text.split()) + '"]'
        raise c.fault("not-json", "SHELL takes a JSON array", words[0], hint)
    return Shell(span=c.span, text=c.text, comments=c.line.comments, words=tuple(word.text for word in words))


def _workdir(c: _Context) -> Workdir:
    word = c.one()
    c.flags()
    return Workdir(span=c.span, text=c.text, comments=c.line.comments, path=word.text)


def _user(c: _Context) -> User:
    word = c.one()
    c.flags()
    return User(span=c.span, text=c.text, comments=c.line.comments, user=word.text)


def _expose(c: _Context) -> Expose:
    words = c.some()
    c.flags()
    return Expose(span=c.span, text=c.text, comments=c.line.comments, ports=tuple(sorted(word.text for word in words)))


def _volume(c: _Context) -> Volume:
    words = c.some()
    c.flags()
    paths = tuple(word.text.strip(SPACES) for word in words)
    if "" in paths:
        raise c.fault("empty-volume", "a VOLUME cannot be an empty string", words[paths.index("")])
    return Volume(span=c.span, text=c.text, comments=c.line.comments, paths=paths)


def _stopsignal(c: _Context) -> StopSignal:
    # BuildKit does not look at flags here, nor of ARG.
    return StopSignal(span=c.span, text=c.text, comments=c.line.comments, signal=c.one().text)


def _maintainer(c: _Context) -> Maintainer:
    word = c.one()
    c.flags()
    return Maintainer(span=c.span, text=c.text, comments=c.line.comments, name=word.text)


def _onbuild(c: _Context) -> Onbuild:
    inner = c.node.inner
    if inner is None:
        raise c.fault("missing-argument", "ONBUILD needs an instruction")
    c.flags()
    if inner.keyword == "ONBUILD":
        raise c.fault("onbuild", "ONBUILD cannot trigger an ONBUILD", inner.parts.keyword)
    if inner.keyword in ("FROM", "MAINTAINER"):
        raise c.fault("onbuild", f"ONBUILD cannot trigger {inner.keyword}", inner.parts.keyword)
    expression = c.line.text.lstrip(_REGEX_SPACES)[len("ONBUILD") :].lstrip(_REGEX_SPACES)
    for heredoc in c.heredocs:
        expression += "\n" + heredoc.raw + heredoc.name
    return Onbuild(span=c.span, text=c.text, comments=c.line.comments, expression=expression)


def _healthcheck(c: _Context) -> Healthcheck:
    words = c.some()
    kind = words[0].text.upper()
    if kind == "NONE":
        if len(words) > 1:
            raise c.fault("bad-healthcheck", "HEALTHCHECK NONE takes no arguments", words[1])
        return Healthcheck(span=c.span, text=c.text, comments=c.line.comments, test=("NONE",))
    flags = c.flags()
    if kind != "CMD":
        raise c.fault(
            "bad-healthcheck",
            f'"{words[0].text}" is no kind of HEALTHCHECK',
            words[0],
            "HEALTHCHECK CMD command, or HEALTHCHECK NONE",
        )
    if len(words) < 2:
        raise c.fault("bad-healthcheck", "HEALTHCHECK CMD needs a command", words[0])
    return Healthcheck(
        span=c.span,
        text=c.text,
        comments=c.line.comments,
        test=("CMD" if c.node.json else "CMD-SHELL", *(word.text for word in words[1:])),
        interval=_interval(c, flags, "interval"),
        timeout=_interval(c, flags, "timeout"),
        start_period=_interval(c, flags, "start-period"),
        start_interval=_interval(c, flags, "start-interval"),
        retries=_retries(c, flags),
    )


def _interval(c: _Context, flags: Flags, name: str) -> int:
    text = flags.string(name)
    if not text:
        return 0
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise c.fault("bad-duration", f"--{name}: {error}", flags.word(name), "a number with a unit: 30s, 1m30s, 500ms") from None
    if value != 0 and value < _MIN_HEALTH_DURATION:
        raise c.fault("bad-duration", f"--{name} cannot be less than 1ms", flags.word(name))
    return value


def _retries(c: _Context, flags: Flags) -> int:
    text = flags.string("retries")
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdecimal()) or int(digits[:24]) >= 2**31:
        raise c.fault("bad-number", f"--retries={text}: not a number", flags.word("retries"))
    if text[0] == "-" and int(digits):
        raise c.fault("bad-number", "--retries cannot be negative", flags.word("retries"))
    return int(digits)


_MAKERS: dict[str, Callable[[_Context], AnyInstruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
