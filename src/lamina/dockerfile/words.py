"""Shell words: quotes, escapes and `$variables` of a Dockerfile's words, exactly as BuildKit's shell lexer takes them.

Rules: https://docs.docker.com/reference/dockerfile/#environment-replacement and BuildKit's frontend/dockerfile/shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import msgspec

from lamina.diagnostics.errors import LaminaError

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""What Go's unicode.IsSpace takes for a space; str.isspace() has four control characters more."""

_SPECIAL_PARAMETERS = frozenset("@*#?-$!0")
_MAX_DEPTH = 100


class ExpansionError(LaminaError):
    """A word whose quotes or substitutions are wrong, or a `${NAME:?message}` that was not satisfied."""

    code = "dockerfile/expansion"
    default_exit = 2


class Expansion(msgspec.Struct, frozen=True):
    """`result` keeps spaces; `words` is it, split at unquoted spaces. `matched` and `unmatched` are the names asked for."""

    result: str
    words: tuple[str, ...]
    matched: frozenset[str]
    unmatched: frozenset[str]


class Expander(msgspec.Struct, frozen=True):
    """Expands words under one escape character.

    `raw_quotes` and `raw_escapes` keep quotes and escapes in the result, `keep_unset` leaves a variable that is not set as it was
    written, `quotes=False` takes quotes for ordinary characters.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    keep_unset: bool = False
    quotes: bool = True

    def word(self, text: str, env: Mapping[str, str]) -> Expansion:
        """Expand `text`. Raises ExpansionError, whose message quotes the text."""
        text = text.removeprefix("\ufeff")
        if "$" not in text and self.escape not in text and "'" not in text and '"' not in text and "<<" not in text:
            return Expansion(text, _split(text), frozenset(), frozenset())
        scan = _Scan(self, text, env)
        try:
            result, words = scan.until("", self.raw_escapes)
        except ExpansionError as error:
            error.args = (f"cannot expand {quoted(text)}: {error.message}",)
            error.message = error.args[0]
            raise
        return Expansion(result, tuple(words), frozenset(scan.matched), frozenset(scan.unmatched))

    def words(self, text: str, env: Mapping[str, str]) -> list[str]:
        """Expand `text` and split what comes out at unquoted spaces; an empty word vanishes, quoted or not."""
        return list(self.word(text, env).words)


def quoted(text: str) -> str:
    """`text` in double quotes for a message, cut when it is long."""
    shown = text if len(text) <= 60 else text[:57] + "…"
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _split(text: str) -> tuple[str, ...]:
    if " " not in text and text.isascii() and text.isprintable():
        return (text,) if text else ()
    return tuple(word for word in re.split(f"[{SPACES}]+", text) if word)


class _Words:
    """Splits while characters arrive: those that came out of quotes never separate."""

    __slots__ = ("current", "done", "inside")

    def __init__(self) -> None:
        self.current = ""
        self.done: list[str] = []
        self.inside = False

    def add(self, text: str) -> None:
        for char in text:
            if char not in SPACES:
                self.add_raw(char)
            elif self.inside and self.current:
                self.done.append(self.current)
                self.current = ""
                self.inside = False

    def add_raw(self, text: str) -> None:
        self.current += text
        self.inside = True

    def finish(self) -> list[str]:
        if self.current:
            self.done.append(self.current)
            self.current = ""
        return self.done


class _Scan:
    __slots__ = ("env", "matched", "mode", "open_words", "pos", "raw_escapes", "text", "unmatched")

    def __init__(self, mode: Expander, text: str, env: Mapping[str, str]) -> None:
        self.mode = mode
        self.text = text
        self.pos = 0
        self.env = env
        self.raw_escapes = mode.raw_escapes
        self.matched: set[str] = set()
        self.unmatched: set[str] = set()
        self.open_words: list[_Words] = []

    def peek(self) -> str:
        return self.text[self.pos] if self.pos < len(self.text) else ""

    def next(self) -> str:
        char = self.peek()
        if char:
            self.pos += 1
        return char

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Everything up to an unquoted `stop` (consumed), or to the end when `stop` is empty."""
        saved, self.raw_escapes = self.raw_escapes, raw_escapes
        if len(self.open_words) >= _MAX_DEPTH:
            raise ExpansionError("substitutions are nested too deeply")
        try:
            result, words, stopped = self._until(stop)
        finally:
            self.raw_escapes = saved
            self.open_words.pop()
        if stop and not stopped:
            raise ExpansionError(f"it ends before the closing {stop}")
        return result, words

    def _until(self, stop: str) -> tuple[str, list[str], bool]:
        # BuildKit keeps the unfinished word in one buffer that every `${NAME:-operand}` starts anew, so what stands before such a
        # substitution in the same word is missing from the list of words (not from the result). EXPOSE and others show it.
        for outer in self.open_words:
            outer.current = ""
        result: list[str] = []
        words = _Words()
        self.open_words.append(words)
        escape = self.mode.escape
        while char := self.peek():
            if char == stop:
                self.pos += 1
                return "".join(result), words.finish(), True
            if char == "$":
                value = self.dollar()
                result.append(value)
                words.add(value)
            elif char == "'" and self.mode.quotes:
                value = self.single_quote()
                result.append(value)
                words.add_raw(value)
            elif char == '"' and self.mode.quotes:
                value = self.double_quote()
                result.append(value)
                words.add_raw(value)
            elif char == "<" and self.text.startswith("<<", self.pos):
                # Blanks between << and the name of a here-document belong to its word.
                end = self.pos + 2
                while end < len(self.text) and self.text[end] in "\t\r ":
                    end += 1
                value = self.text[self.pos : end]
                self.pos = end
                result.append(value)
                words.add_raw(value)
            else:
                self.pos += 1
                if char == escape:
                    if self.raw_escapes:
                        result.append(char)
                        words.add_raw(char)
                    char = self.next()
                    if not char:
                        break
                    words.add_raw(char)
                else:
                    words.add(char)
                result.append(char)
        return "".join(result), words.finish(), False

    def single_quote(self) -> str:
        end = self.text.find("'", self.pos + 1)
        if end < 0:
            raise ExpansionError("it ends before the closing single quote")
        inner = self.text[self.pos + 1 : end]
        self.pos = end + 1
        return f"'{inner}'" if self.mode.raw_quotes else inner

    def double_quote(self) -> str:
        quote = self.next() if self.mode.raw_quotes else ""
        if not quote:
            self.pos += 1
        result = [quote]
        escape = self.mode.escape
        while True:
            char = self.peek()
            if not char:
                raise ExpansionError("it ends before the closing double quote")
            if char == '"':
                self.pos += 1
                result.append(quote)
                return "".join(result)
            if char == "$":
                result.append(self.dollar())
                continue
            self.pos += 1
            if char == escape:
                if self.raw_escapes:
                    result.append(char)
                following = self.peek()
                if not following:
                    continue
                if following in ('"', "$", escape):
                    char = self.next()
            result.append(char)

    def dollar(self) -> str:
        self.pos += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.lookup(name)
            if value is None:
                return "$" + name if self.mode.keep_unset else ""
            return value
        self.pos += 1
        first = self.peek()
        if not first:
            raise ExpansionError("missing '}'")
        if first in "{}:":
            raise ExpansionError("bad substitution")
        name = self.name()
        char = self.next()
        modifier = char
        if char == "}":
            value = self.lookup(name)
            if value is None:
                return "${" + name + "}" if self.mode.keep_unset else ""
            return value
        if char == "/":
            return self.replace(name)
        empty_counts_as_unset = char == ":"
        if empty_counts_as_unset:
            char = self.next()
            modifier += char
        elif not char or char not in "+-?#%":
            raise self.unsupported(modifier)
        word = self.operand("}", char in ("#", "%"), "missing '}'")
        value = self.lookup(name)
        if value is None and self.mode.keep_unset:
            return f"${{{name}{modifier}{word}}}"
        return self.modified(name, value, modifier, char, word, empty_counts_as_unset)

    def modified(self, name: str, value: str | None, modifier: str, char: str, word: str, empty_counts_as_unset: bool) -> str:
        unset = value is None or (empty_counts_as_unset and not value)
        if char == "-":
            return word if unset else value or ""
        if char == "+":
            return "" if unset else word
        if char == "?":
            if unset:
                raise ExpansionError(f"{name}: {word or ('is not allowed to be unset' if value is None else 'is not allowed to be empty')}")
            return value or ""
        if char == "#" or char == "%":
            greedy = word.startswith(char)
            pattern = word[1:] if greedy else word
            return _trim_prefix(pattern, value or "", greedy) if char == "#" else _trim_suffix(pattern, value or "", greedy)
        raise self.unsupported(modifier)

    def replace(self, name: str) -> str:
        everywhere = self.peek() == "/"
        if everywhere:
            self.pos += 1
        pattern = self.operand("/", True, "missing '/' in ${}")
        replacement = self.operand("}", True, "missing '}'")
        value = self.lookup(name)
        if value is None and self.mode.keep_unset:
            return f"${{{name}{'//' if everywhere else '/'}{pattern}/{replacement}}}"
        regex = _regex(pattern, True)
        value = value or ""
        if everywhere:
            return _replace_all(regex, value, replacement)
        found = regex.search(value)
        return value[: found.start()] + replacement + value[found.end() :] if found else value

    def operand(self, stop: str, raw_escapes: bool, missing: str) -> str:
        try:
            return self.until(stop, raw_escapes)[0]
        except ExpansionError:
            if not self.peek():
                raise ExpansionError(missing) from None
            raise

    def unsupported(self, modifier: str) -> ExpansionError:
        return ExpansionError(f"unsupported modifier ({modifier}) in a substitution")

    def name(self) -> str:
        """A name, all digits of a number, or one special parameter; "" when none starts here."""
        text, start = self.text, self.pos
        first = self.peek()
        end = start
        if first.isdecimal():
            while end < len(text) and text[end].isdecimal():
                end += 1
        elif first and first in _SPECIAL_PARAMETERS:
            end += 1
        else:
            while end < len(text) and (text[end].isalpha() or text[end].isdecimal() or text[end] == "_"):
                end += 1
        self.pos = end
        return text[start:end]

    def lookup(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.unmatched if value is None else self.matched).add(name)
        return value


@lru_cache(maxsize=64)
def _regex(pattern: str, greedy: bool) -> re.Pattern[str]:
    """A wildcard pattern of `#`, `%` or `/` as a regular expression; brackets are no wildcards here."""
    out: list[str] = []
    pos = 0
    while pos < len(pattern):
        char = pattern[pos]
        pos += 1
        if char == "*":
            if not out or not out[-1].startswith(".*"):
                out.append(".*" if greedy else ".*?")
            continue
        if char == "?":
            out.append(".")
            continue
        if char == "\\":
            following = pattern[pos : pos + 1]
            if following in ("}", "/"):
                continue
            pos += 1
            if not following or following not in "*?\\":
                raise ExpansionError(f"invalid pattern ({pattern}): \\{following} is no escape")
            char = following
        out.append(re.escape(char))
    return re.compile("".join(out))


def _trim_prefix(pattern: str, value: str, greedy: bool) -> str:
    found = _regex(pattern, greedy).match(value)
    return value[found.end() :] if found else value


def _trim_suffix(pattern: str, value: str, greedy: bool) -> str:
    """Both turned around: the shortest match at the end of a text is the shortest at the start of its mirror image."""
    mirrored: list[str] = []
    pos = 0
    while pos < len(pattern):
        width = 2 if pattern[pos] == "\\" and pos + 1 < len(pattern) else 1
        mirrored.append(pattern[pos : pos + width])
        pos += width
    return _trim_prefix("".join(reversed(mirrored)), value[::-1], greedy)[::-1]


def _replace_all(regex: re.Pattern[str], value: str, replacement: str) -> str:
    """As Go's ReplaceAllString: no empty match right behind another one, and `$name` in the replacement is a group."""
    out: list[str] = []
    last = pos = 0
    while pos <= len(value):
        found = regex.search(value, pos)
        if found is None:
            break
        start, end = found.span()
        out.append(value[last:start])
        if end > last or start == 0:
            out.append(_fill(replacement, value[start:end]))
        last = end
        pos = end if end > pos else pos + 1
    out.append(value[last:])
    return "".join(out)


def _fill(template: str, whole: str) -> str:
    if "$" not in template:
        return template

    def group(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name = found[1] or found[2]
        return whole if name.isdecimal() and int(name) == 0 else ""

    return re.sub(r"\$(?:\$|(\w+)|\{(\w+)\})", group, template)
