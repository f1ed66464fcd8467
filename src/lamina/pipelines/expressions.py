"""Bitbucket's expression language: `BITBUCKET_BRANCH == "main" && !glob(BITBUCKET_BRANCH, "feature/*")`.

Comparisons, `&& || !`, parentheses, texts in quotes, numbers, true, false, variables without `$`, and glob(). Bitbucket's pages show unquoted words on the
right of a comparison too; a word there that names no variable is its own text. A variable that is not set is the empty text. The result must be true or false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines import globs

Value = str | bool | float
Lookup = Mapping[str, str]
Compiled = Callable[[Lookup], Value]

MAX_NESTING = 40
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>==|!=|<=|>=|&&|\|\||[<>!(),])|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[A-Za-z0-9_.][A-Za-z0-9_./:@+-]*|-[0-9.]+))"""
)
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ExpressionError(LaminaError):
    """Not an expression, or one that gives no boolean."""

    code = "pipeline/expression"
    default_exit = 2


def evaluate(text: str, variables: Lookup) -> bool:
    """Raises ExpressionError when the text is wrong or its result is not a boolean."""
    return _boolean(compile_expression(text)(variables), text)


def compile_expression(text: str) -> Compiled:
    """The expression as a function of the variables; raises ExpressionError."""
    parser = _Parser(text)
    result = parser.either(0)
    if parser.peek() is not None:
        raise ExpressionError(f"`{parser.peek()}` is not expected after a whole expression in `{text}`")
    return result


def names(text: str) -> tuple[str, ...]:
    """The words of the expression that may be variables."""
    found = [word for kind, word in _tokens(text) if kind == "word" and _NAME.fullmatch(word) and word not in ("true", "false", "glob")]
    return tuple(dict.fromkeys(found))


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position:].lstrip()
            hint = None
            if rest[0] == "$":
                hint = "variables are written without $"
            elif rest[0] == "=":
                hint = "equality is =="
            elif rest[0] in "&|":
                hint = "and is &&, or is ||"
            elif rest[0] in "\"'":
                hint = "a quote is not closed"
            raise ExpressionError(f"`{rest[0]}` is not expected in the expression `{text}`", hint=hint)
        kind = match.lastgroup
        assert kind is not None
        found.append((kind, match[kind]))
        position = match.end()
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.position = 0

    def peek(self) -> str | None:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else None

    def operator(self, *wanted: str) -> str | None:
        """Takes the next token when it is one of these operators."""
        if self.position < len(self.tokens):
            kind, word = self.tokens[self.position]
            if kind == "op" and word in wanted:
                self.position += 1
                return word
        return None

    def either(self, depth: int) -> Compiled:
        left = self.both(depth)
        while self.operator("||"):
            left = self._join(left, self.both(depth), True)
        return left

    def both(self, depth: int) -> Compiled:
        left = self.negation(depth)
        while self.operator("&&"):
            left = self._join(left, self.negation(depth), False)
        return left

    def _join(self, left: Compiled, right: Compiled, decided: bool) -> Compiled:
        def joined(variables: Lookup) -> bool:
            first = _boolean(left(variables), self.text)
            return first if first is decided else _boolean(right(variables), self.text)

        return joined

    def negation(self, depth: int) -> Compiled:
        if depth > MAX_NESTING:
            raise ExpressionError(f"nested deeper than {MAX_NESTING} levels")
        if self.operator("!"):
            inner = self.negation(depth + 1)
            return lambda variables: not _boolean(inner(variables), self.text)
        return self.comparison(depth)

    def comparison(self, depth: int) -> Compiled:
        left = self.operand(depth, bare=False)
        found = self.operator("==", "!=", "<=", ">=", "<", ">")
        if found is None:
            return left
        right = self.operand(depth, bare=True)
        return lambda variables: _compare(found, left(variables), right(variables), self.text)

    def operand(self, depth: int, *, bare: bool) -> Compiled:
        if self.operator("("):
            inner = self.either(depth + 1)
            self.expect(")")
            return inner
        if self.position >= len(self.tokens):
            raise ExpressionError(f"the expression `{self.text}` ends where a value belongs")
        kind, word = self.tokens[self.position]
        self.position += 1
        if kind == "op":
            raise ExpressionError(f"`{word}` stands where a value belongs in `{self.text}`")
        if kind == "text":
            text = re.sub(r"\\(.)", r"\1", word[1:-1])
            return lambda variables: text
        if word in ("true", "false"):
            return lambda variables: word == "true"
        if _NUMBER.fullmatch(word):
            return lambda variables: float(word)
        if word == "glob" and self.operator("("):
            return self.glob(depth)
        if self.operator("("):
            raise ExpressionError(f"there is no function {word}()", hint="the only one is glob(value, pattern)")
        if not _NAME.fullmatch(word) and not bare:
            raise ExpressionError(f"`{word}` is neither a variable nor a quoted text", hint=f'a text is written in quotes: "{word}"')
        return lambda variables: variables.get(word, word if bare else "")

    def glob(self, depth: int) -> Compiled:
        value = self.operand(depth + 1, bare=False)
        self.expect(",")
        if self.position >= len(self.tokens) or self.tokens[self.position][0] != "text":
            raise ExpressionError("the second value of glob() is a pattern in quotes")
        word = re.sub(r"\\(.)", r"\1", self.tokens[self.position][1][1:-1])
        self.position += 1
        self.expect(")")
        try:
            pattern = globs.compile_glob(word)
        except globs.GlobError as error:
            raise ExpressionError(error.message) from None
        return lambda variables: pattern.matches(_text(value(variables)))

    def expect(self, wanted: str) -> None:
        if not self.operator(wanted):
            raise ExpressionError(f"`{wanted}` is missing before `{self.peek() or 'the end'}` in `{self.text}`")


def _boolean(value: Value, text: str) -> bool:
    """Variables are texts, so "true" and "false" count."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise ExpressionError(f"`{text}` gives {value!r}, which is neither true nor false", hint='compare it: NAME == "value"')


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else value


def _compare(operator: str, left: Value, right: Value, text: str) -> bool:
    """Numbers when both sides are numbers, else texts; an order of texts is not defined."""
    numbers = (_number(left), _number(right))
    if numbers[0] is not None and numbers[1] is not None:
        one, other = numbers[0], numbers[1]
        return {"==": one == other, "!=": one != other, "<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[
            operator
        ]
    if operator in ("==", "!="):
        return (_text(left) == _text(right)) is (operator == "==")
    raise ExpressionError(f"`{operator}` compares numbers; `{text}` has {left!r} and {right!r}")


def _number(value: Value) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return value
    return float(value) if _NUMBER.fullmatch(value) else None
