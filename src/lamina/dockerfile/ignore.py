""".dockerignore: which paths of a context stay behind.

The rules are moby's patternmatcher and the walk of BuildKit's client. They differ in one point, and so do `ignored` and the walk:
for a path alone every parent directory is tried against every pattern; a walk remembers per directory what its patterns said, and
never asks an exception (`!`) about a directory that nothing had ignored. What a build sees is the walk.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Iterable
from typing import Literal

import msgspec

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile.words import SPACES

_WILDCARDS = frozenset("*[]?^\\")
_ESCAPED = frozenset(".+()|{}$")


class IgnoreError(LaminaError):
    """A pattern that says nothing: an open bracket, a lonely `!`."""

    code = "dockerfile/bad-ignore-pattern"
    default_exit = 2


def parse_patterns(text: str) -> tuple[str, ...]:
    """The patterns of a .dockerignore: no comments, no blank lines, cleaned, relative to the context."""
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip(SPACES)
        if not pattern:
            continue
        mark = ""
        if pattern[0] == "!":
            mark = "!"
            pattern = pattern[1:].strip(SPACES)
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern[0] == "/":
                pattern = pattern[1:]
        patterns.append(mark + pattern)
    return tuple(patterns)


def _clean(path: str) -> str:
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


class _Pattern(msgspec.Struct, frozen=True):
    exception: bool
    text: str
    shape: Literal["exact", "prefix", "suffix", "regex"]
    source: str = ""  # of the regular expression
    regex: re.Pattern[str] | None = None
    literal: str = ""  # the directory part that every match begins with, "" or "a/b/"
    depth: int = -1  # slashes in every match, -1 for any number

    def match(self, path: str) -> bool:
        if self.shape == "exact":
            return path == self.text
        if self.shape == "prefix":
            return path.startswith(self.text[:-2])
        if self.shape == "suffix":
            suffix = self.text[2:]
            return path.endswith(suffix) or (suffix[:1] == "/" and path == suffix[1:])
        assert self.regex is not None
        return self.regex.match(path) is not None

    def match_with_parents(self, path: str) -> bool:
        if self.match(path):
            return True
        end = path.find("/")
        while end >= 0:
            if self.match(path[:end]):
                return True
            end = path.find("/", end + 1)
        return False


def _compile(written: str) -> _Pattern | None:
    """One pattern; None for an empty one. Raises IgnoreError."""
    text = written.strip(SPACES)
    if not text:
        return None
    text = _clean(text)
    exception = text[0] == "!"
    if exception:
        text = text[1:]
        if not text:
            raise IgnoreError('the pattern "!" names nothing', hint="write what is to be sent behind the !")
    _check_syntax(text)
    shape, source = _translate(text)
    if shape != "regex":
        return _Pattern(exception, text, shape, source + ".*" if shape == "prefix" else "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # brackets in brackets mean in Go what they mean here today
            regex = re.compile(source + r"\Z")
    except re.error:
        raise _bad(text) from None
    first = next((index for index, char in enumerate(text) if char in _WILDCARDS), len(text))
    depth = -1 if "**" in text or "[" in text else text.count("/")  # brackets can match a slash, as they do in Go
    return _Pattern(exception, text, "regex", source, regex, text[: text.rfind("/", 0, first) + 1], depth)


def _bad(text: str) -> IgnoreError:
    return IgnoreError(f'syntax error in the pattern "{text}"', hint="put a \\ before a [ that is meant as such")


def _check_syntax(text: str) -> None:
    """Go's path.Match refuses these; it is asked before a pattern is used."""
    pos = 0
    while pos < len(text):
        char = text[pos]
        pos += 1
        if char == "\\":
            if pos == len(text):
                raise _bad(text)
            pos += 1
        elif char == "[":
            pos = _check_class(text, pos)


def _check_class(text: str, pos: int) -> int:
    if text.startswith("^", pos):
        pos += 1
    first = True
    while True:
        if not first and text.startswith("]", pos):
            return pos + 1
        first = False
        pos = _class_member(text, pos)
        if text[pos] == "-":
            pos = _class_member(text, pos + 1)


def _class_member(text: str, pos: int) -> int:
    if pos >= len(text) or text[pos] in "-]":
        raise _bad(text)
    pos += 2 if text[pos] == "\\" else 1
    if pos >= len(text):
        raise _bad(text)
    return pos


def _translate(text: str) -> tuple[Literal["exact", "prefix", "suffix", "regex"], str]:
    """The shape of a pattern and its regular expression, made the way patternmatcher makes it."""
    shape: Literal["exact", "prefix", "suffix", "regex"] = "exact"
    out: list[str] = []
    pos = 0
    while pos < len(text):
        char = text[pos]
        at_start = pos == 0
        pos += 1
        piece = char
        if char == "*" and text.startswith("*", pos):
            pos += 1
            if text.startswith("/", pos):
                pos += 1
            if pos < len(text):
                piece, shape = "(?:.*/)?", "regex"
            elif shape == "exact":
                piece, shape = "", "prefix"
            else:
                piece, shape = ".*", "regex"
            if at_start:
                shape = "suffix"
        elif char == "*":
            piece, shape = "[^/]*", "regex"
        elif char == "?":
            piece, shape = "[^/]", "regex"
        elif char in _ESCAPED:
            piece = "\\" + char
        elif char == "\\":
            if ord(text[pos]) > 127:
                raise _bad(text)
            piece, shape = "\\" + text[pos], "regex"
            pos += 1
        elif char in "[]":
            shape = "regex"
        if piece in ("(?:.*/)?", "[^/]*", ".*") and out and out[-1] == piece:
            continue  # the same twice in a row matches the same, only slower
        out.append(piece)
    return shape, "".join(out)


class _Group(msgspec.Struct):
    """Patterns of one kind (ignoring or exceptions) that follow one another: one of them is enough. Split by shape for speed."""

    exception: bool
    first: int
    members: list[_Pattern] = []
    exact: dict[str, set[str]] = {}  # directory prefix -> names in it
    names: set[str] = set()  # **/name
    endings: tuple[str, ...] = ()  # **.ext, **/*.ext, **/a/b
    prefixes: tuple[str, ...] = ()  # dir/**
    open_prefixes: list[_Pattern] = []  # name**
    regexes: list[_Pattern] = []

    def finish(self) -> None:
        endings: list[str] = []
        prefixes: list[str] = []
        for pattern in self.members:
            text = pattern.text
            if pattern.shape == "exact":
                folder, slash, name = text.rpartition("/")
                self.exact.setdefault(folder + slash, set()).add(name)
            elif pattern.shape == "prefix":
                prefixes.append(text[:-2])
                if not text.endswith("/**"):
                    self.open_prefixes.append(pattern)
            elif pattern.shape == "suffix":
                suffix = text[2:]
                if suffix.startswith("/") and "/" not in suffix[1:]:
                    self.names.add(suffix[1:])
                elif suffix.startswith("/"):
                    endings.append(suffix)
                    folder, slash, name = suffix[1:].rpartition("/")
                    self.exact.setdefault(folder + slash, set()).add(name)
                else:
                    endings.append(suffix)
            elif text.startswith("**/*") and not _WILDCARDS.intersection(text[4:]) and "/" not in text[4:]:
                endings.append(text[4:])
            else:
                self.regexes.append(pattern)
        self.endings = tuple(endings)
        self.prefixes = tuple(prefixes)


class IgnoreRules:
    """Compiled patterns. Immutable; one object serves any number of walks."""

    __slots__ = ("_anchors", "_groups", "_joined", "_patterns", "_prefix_exceptions", "_usual", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """`patterns` as `parse_patterns` gives them, or of `--exclude`. Raises IgnoreError."""
        self.patterns = tuple(patterns)
        self._patterns = tuple(compiled for written in self.patterns if (compiled := _compile(written)))
        self._groups: list[_Group] = []
        for index, pattern in enumerate(self._patterns):
            if not self._groups or self._groups[-1].exception != pattern.exception:
                self._groups.append(_Group(pattern.exception, index))
            self._groups[-1].members.append(pattern)
        for group in self._groups:
            group.finish()
        self._joined: dict[tuple[str, ...], re.Pattern[str]] = {}
        self._anchors = _first_components(self._groups)
        self._usual: dict[tuple[tuple[bool, ...], int], list[_Test]] = {}
        exceptions = [_without_glob(pattern.text) for pattern in self._patterns if pattern.exception]
        plain = not any(_WILDCARDS.intersection(text) for text in exceptions)
        self._prefix_exceptions = tuple(text + "/" for text in exceptions) if plain else None

    @classmethod
    def parse(cls, text: str) -> IgnoreRules:
        """Read a .dockerignore. Raises IgnoreError."""
        return cls(parse_patterns(text))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def ignored(self, path: str) -> bool:
        """Whether `path` (relative, slashes, no `..`) is ignored, asked by itself: a pattern that matches a parent matches it."""
        for pattern in reversed(self._patterns):
            if pattern.match_with_parents(path):
                return not pattern.exception
        return False

    def root(self) -> IgnoreDirectory:
        """Where a walk begins: the context's own directory."""
        return IgnoreDirectory(self, "", (False,) * len(self._patterns), False)

    def _regex(self, patterns: list[_Pattern]) -> re.Pattern[str] | None:
        if not patterns:
            return None
        key = tuple(pattern.source for pattern in patterns)
        found = self._joined.get(key)
        if found is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                found = self._joined[key] = re.compile("(?:" + "|".join(key) + r")\Z")
        return found


def _first_components(groups: list[_Group]) -> frozenset[str] | None:
    """The top directories that some pattern speaks of by name; None when that cannot be said."""
    found: set[str] = set()
    for group in groups:
        if group.open_prefixes:
            return None
        for text in (*group.exact, *group.prefixes, *(pattern.literal for pattern in group.regexes)):
            found.add(text.partition("/")[0])
    return frozenset(found)


def _without_glob(text: str) -> str:
    return text.removesuffix("/**").removesuffix("/*")


_Test = tuple[bool, bool, frozenset[str], tuple[str, ...], "re.Pattern[str] | None"]


class IgnoreDirectory:
    """A directory in a walk. `ignored` is its own verdict; `skip` says that nothing below it can be sent, so it need not be read.

    A directory that is ignored but not skipped is sent after all when something below it is: it is the parent of an exception.
    """

    __slots__ = ("_matched", "_rules", "_tests", "ignored", "path", "skip")

    def __init__(self, rules: IgnoreRules, path: str, matched: tuple[bool, ...], ignored: bool) -> None:
        self._rules = rules
        self.path = path  # "" for the root, else without a trailing slash
        self.ignored = ignored
        self.skip = ignored and not self.may_contain_exceptions()
        self._matched = matched
        self._tests: list[_Test] | None = None

    def may_contain_exceptions(self) -> bool:
        """Whether an exception could bring back something below."""
        exceptions = self._rules._prefix_exceptions
        if exceptions is None:
            return True
        inside = self.path + "/"
        return any(text.startswith(inside) for text in exceptions)

    def directory(self, name: str) -> IgnoreDirectory:
        """The directory `name` in this one."""
        path = f"{self.path}/{name}" if self.path else name
        if self._tests is None:
            self._tests = self._find_tests()
        if len(self._tests) <= 1 and True not in self._matched and self.kept((name,)):
            # Only ignoring patterns speak here, and none of them of this name.
            return IgnoreDirectory(self._rules, path, self._matched, False)
        ignored = False
        matched: list[bool] = []
        for pattern, above in zip(self._rules._patterns, self._matched):
            match = above or (pattern.exception == ignored and pattern.match(path))
            matched.append(match)
            if match:
                ignored = not pattern.exception
        return IgnoreDirectory(self._rules, path, tuple(matched), ignored)

    def file(self, name: str) -> bool:
        """Whether anything but a directory with this name is ignored."""
        return not self.kept((name,))

    def kept(self, names: Iterable[str]) -> list[str]:
        """Those of the names (of anything but directories) that are sent."""
        tests = self._tests
        if tests is None:
            tests = self._tests = self._find_tests()
        prefix = self.path + "/" if self.path else ""
        kept: list[str] = []
        if len(tests) == 1:
            exception, always, exact, endings, regex = tests[0]
            if always or exception:
                return list(names) if exception else kept
            for name in names:
                if name in exact:
                    continue
                if endings or regex:
                    path = prefix + name
                    if (endings and path.endswith(endings)) or (regex and regex.match(path)):
                        continue
                kept.append(name)
            return kept
        for name in names:
            path = prefix + name
            for exception, always, exact, endings, regex in tests:
                if always or name in exact or (endings and path.endswith(endings)) or (regex and regex.match(path)):
                    if exception:
                        kept.append(name)
                    break
            else:
                kept.append(name)
        return kept

    def _find_tests(self) -> list[_Test]:
        """The tests of this directory; those of directories that no pattern names are shared."""
        anchors = self._rules._anchors
        if not self.path or anchors is None or self.path.partition("/")[0] in anchors:
            return self._prepare()
        key = (self._matched, self.path.count("/"))
        found = self._rules._usual.get(key)
        if found is None:
            found = self._rules._usual[key] = self._prepare()
        return found

    def _prepare(self) -> list[_Test]:
        """The tests that can say something in this directory, last group first: the first that answers decides."""
        prefix = self.path + "/" if self.path else ""
        depth = prefix.count("/")
        merged: list[tuple[bool, bool, set[str], tuple[str, ...], list[_Pattern]]] = []
        for group in reversed(self._rules._groups):
            above = any(self._matched[group.first : group.first + len(group.members)])
            always = above or any(prefix.startswith(text) for text in group.prefixes)
            exact = group.names | group.exact.get(prefix, set())
            regexes = [p for p in group.regexes if p.depth in (-1, depth) and prefix.startswith(p.literal)]
            regexes += [p for p in group.open_prefixes if p.text.startswith(prefix)]
            endings = group.endings
            if not (always or exact or endings or regexes):
                continue
            if merged and merged[-1][0] == group.exception:
                _, _, other_exact, other_endings, other_regexes = merged.pop()
                exact, endings, regexes = exact | other_exact, endings + other_endings, other_regexes + regexes
            merged.append((group.exception, always, exact, endings, regexes))
            if always:
                break
        while merged and merged[-1][0]:
            merged.pop()  # what no earlier pattern ignores needs no exception
        return [
            (exception, always, frozenset(exact), endings, self._rules._regex(regexes))
            for exception, always, exact, endings, regexes in merged
        ]
