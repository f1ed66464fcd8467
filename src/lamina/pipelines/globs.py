"""Bitbucket's globs for branches, tags, changed files and artifacts, and which of two patterns is the more specific one.

`*` and `?` stay inside one path segment, `**` crosses them (`**/` also stands for no folder at all), `{a,b}` are alternatives, `\\` takes the next character
as it is. Matching is case-sensitive and covers the whole text. `[ab]` is a class of characters; Bitbucket's pages do not speak of it.
Matching takes time proportional to text times pattern: no pattern of a hostile file can make it explode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from lamina.diagnostics.errors import LaminaError

MAX_ALTERNATIVES = 256
MAX_PATTERN = 4096
MAX_COMPARED = 200  # matching patterns; they are compared in pairs


class GlobError(LaminaError):
    """A pattern that cannot be read."""

    code = "pipeline/glob"
    default_exit = 2


class Token(msgspec.Struct, frozen=True):
    """`literal` one character, `any` one character but /, `class` one of `members`, `star` any run without /, `deep` any run, `folders` nothing or `…/`."""

    kind: str
    members: str = ""
    negated: bool = False


class Glob(msgspec.Struct, frozen=True):
    text: str
    alternatives: tuple[tuple[Token, ...], ...]

    def matches(self, text: str) -> bool:
        return any(_matches(tokens, text) for tokens in self.alternatives)

    @property
    def literal(self) -> bool:
        """Without a wildcard: it matches one text only."""
        return len(self.alternatives) == 1 and all(token.kind == "literal" for token in self.alternatives[0])

    @property
    def has_class(self) -> bool:
        return any(token.kind == "class" for tokens in self.alternatives for token in tokens)

    def covers(self, other: Glob) -> bool:
        """Whether every text that `other` matches is surely matched by this one."""
        return all(any(_covers(mine, theirs) for mine in self.alternatives) for theirs in other.alternatives)

    def weight(self) -> tuple[int, int, int]:
        """Grows with how specific the pattern is: more fixed characters, fewer `**`, fewer other wildcards."""
        return min(_weight(tokens) for tokens in self.alternatives)


def compile_glob(text: str) -> Glob:
    """Raises GlobError."""
    if len(text) > MAX_PATTERN:
        raise GlobError(f"a pattern of {len(text)} characters; at most {MAX_PATTERN} are allowed")
    return Glob(text, tuple(_tokens(part, text) for part in _expand(text)))


def matches(pattern: str, text: str) -> bool:
    return compile_glob(pattern).matches(text)


class Chosen(msgspec.Struct, frozen=True):
    """`index` into the patterns; `ties` are the indexes of patterns that are as specific, so that the choice is a guess."""

    index: int
    ties: tuple[int, ...] = ()


def choose(patterns: Sequence[str], text: str) -> Chosen | None:
    """The pattern that wins for `text`: the exact name, else the one that all other matching ones cover, else the one with most fixed characters."""
    compiled = [compile_glob(pattern) for pattern in patterns]
    if text in patterns:
        return Chosen(patterns.index(text))
    found = [index for index, glob in enumerate(compiled) if glob.matches(text)]
    if not found:
        return None
    literal = [index for index in found if compiled[index].literal]
    if literal:
        return Chosen(literal[0])
    best = [
        one
        for one in found
        if not any(compiled[one].covers(compiled[other]) and not compiled[other].covers(compiled[one]) for other in found)
    ]
    best.sort(key=lambda index: compiled[index].weight(), reverse=True)
    return Chosen(best[0], tuple(best[1:]))


def any_matches(patterns: Iterable[str], text: str) -> str | None:
    """The first of the patterns that matches."""
    return next((pattern for pattern in patterns if matches(pattern, text)), None)


def _expand(text: str) -> list[str]:
    """Braces multiplied out, nested ones too. Without a comma they are ordinary characters."""
    done: list[str] = []
    waiting = [text]
    while waiting:
        one = waiting.pop()
        cut = _first_braces(one)
        if cut is None:
            done.append(one)
        else:
            start, end, parts = cut
            waiting += [one[:start] + part + one[end:] for part in reversed(parts)]
        if len(waiting) + len(done) > MAX_ALTERNATIVES:
            raise GlobError(f'the pattern "{text[:80]}" has more than {MAX_ALTERNATIVES} alternatives')
    return done


def _first_braces(text: str) -> tuple[int, int, list[str]] | None:
    start, depth, cuts, index = -1, 0, [], 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 1
        elif char == "{":
            if depth == 0:
                start, cuts = index, [index]
            depth += 1
        elif char == "," and depth == 1:
            cuts.append(index)
        elif char == "}" and depth:
            depth -= 1
            if depth == 0 and len(cuts) > 1:
                cuts.append(index)
                return start, index + 1, [text[a + 1 : b] for a, b in pairwise(cuts)]
        index += 1
    return None


def _tokens(text: str, whole: str) -> tuple[Token, ...]:
    found: list[Token] = []
    index = 0
    while index < len(text):
        char = text[index]
        if char == "\\" and index + 1 < len(text):
            index += 1
            found.append(Token("literal", text[index]))
        elif text.startswith("**", index):
            end = index
            while end < len(text) and text[end] == "*":
                end += 1
            folder = (index == 0 or text[index - 1] == "/") and text.startswith("/", end)
            found.append(Token("folders" if folder else "deep"))
            index = end if folder else end - 1
        elif char == "*":
            found.append(Token("star"))
        elif char == "?":
            found.append(Token("any"))
        elif char == "[" and (end := text.find("]", index + 2)) > 0:
            members = text[index + 1 : end]
            negated = members[0] in "!^" and len(members) > 1
            found.append(Token("class", _members(members[negated:], whole), negated))
            index = end
        else:
            found.append(Token("literal", char))
        index += 1
    return tuple(found)


def _members(text: str, whole: str) -> str:
    found: list[str] = []
    index = 0
    while index < len(text):
        if index + 2 < len(text) and text[index + 1] == "-":
            first, last = ord(text[index]), ord(text[index + 2])
            if last < first or last - first > 255:
                raise GlobError(f'the range {text[index : index + 3]} of the pattern "{whole[:80]}" is not one')
            found += [chr(code) for code in range(first, last + 1)]
            index += 3
        else:
            found.append(text[index])
            index += 1
    return "".join(found)


def _one(token: Token, char: str) -> bool:
    if token.kind == "literal":
        return char == token.members
    if token.kind == "class":
        return char != "/" and (char in token.members) is not token.negated
    return char != "/"


def _closure(tokens: tuple[Token, ...], states: set[int]) -> set[int]:
    """With the states that are reached by letting a run be empty."""
    result = set(states)
    for state in sorted(states):
        while state < len(tokens) and tokens[state].kind in ("star", "deep", "folders"):
            state += 1
            result.add(state)
    return result


def _matches(tokens: tuple[Token, ...], text: str) -> bool:
    states = _closure(tokens, {0})
    within: set[int] = set()  # a `folders` run that has begun and must reach a /
    for char in text:
        after: set[int] = set()
        begun: set[int] = set()
        for state in states:
            if state == len(tokens):
                continue
            token = tokens[state]
            if token.kind == "deep" or (token.kind == "star" and char != "/"):
                after.add(state)
            elif token.kind == "folders":
                begun.add(state)
                if char == "/":
                    after.add(state)
            elif token.kind not in ("star", "folders") and _one(token, char):
                after.add(state + 1)
        for state in within:
            begun.add(state)
            if char == "/":
                after.add(state)
        states, within = _closure(tokens, after), begun
        if not states and not within:
            return False
    return len(tokens) in states


def _covers(mine: tuple[Token, ...], theirs: tuple[Token, ...]) -> bool:
    """Runs `mine` over the other pattern's tokens instead of over characters; never wrongly true."""
    states = _closure(mine, {0})
    within: set[int] = set()
    for theirs_token in theirs:
        after: set[int] = set()
        begun: set[int] = set()
        slash = theirs_token.kind == "literal" and theirs_token.members == "/"
        crosses = theirs_token.kind in ("deep", "folders")
        for state in states:
            if state == len(mine):
                continue
            token = mine[state]
            if token.kind == "deep" or (token.kind == "star" and not slash and not crosses):
                after.add(state)
            elif token.kind == "folders":
                begun.add(state)
                if slash or theirs_token.kind == "folders":
                    after.add(state)
            elif token.kind in ("literal", "any", "class") and _token_covers(token, theirs_token):
                after.add(state + 1)
        for state in within:
            begun.add(state)
            if slash or theirs_token.kind == "folders":
                after.add(state)
        states, within = _closure(mine, after), begun
    return len(mine) in states


def _token_covers(mine: Token, theirs: Token) -> bool:
    if theirs.kind == "literal":
        return _one(mine, theirs.members)
    if mine.kind == "any":
        return theirs.kind in ("any", "class")
    return mine == theirs and mine.kind == "class"


def _weight(tokens: tuple[Token, ...]) -> tuple[int, int, int]:
    fixed = sum(token.kind in ("literal", "class") for token in tokens)
    deep = sum(token.kind in ("deep", "folders") for token in tokens)
    return fixed, -deep, -sum(token.kind in ("star", "any") for token in tokens)
