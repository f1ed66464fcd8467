"""WWW-Authenticate, read as RFC 9110 section 11.6.1 has it: several challenges per header, quoted strings with escapes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MAX = 16 << 10


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and parameter names are lower case; of a repeated parameter the first counts."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        return next((value for key, value in self.parameters if key == name), "")


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """All challenges of one header value, in order. Never raises: what cannot be read ends the list."""
    found: list[Challenge] = []
    scheme = ""
    parameters: list[tuple[str, str]] = []
    text = header[:_MAX]
    at = 0

    def done() -> None:
        if scheme:
            found.append(Challenge(scheme, tuple(parameters)))

    while at < len(text):
        if text[at] in " \t,":
            at += 1
            continue
        word, at = _token(text, at)
        if not word:
            break
        after = _blanks(text, at)
        if after < len(text) and text[after] == "=" and scheme and not _is_token68(text, after):
            value, at = _value(text, _blanks(text, after + 1))
            parameters.append((word.lower(), value))
        else:
            done()
            scheme, parameters = word.lower(), []
            at = _skip_token68(text, at)
    done()
    return tuple(found)


def _token(text: str, at: int) -> tuple[str, int]:
    start = at
    while at < len(text) and text[at] in _TOKEN:
        at += 1
    return text[start:at], at


def _blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t":
        at += 1
    return at


def _value(text: str, at: int) -> tuple[str, int]:
    if at >= len(text) or text[at] != '"':
        end = at
        while end < len(text) and text[end] not in ", \t":
            end += 1
        return text[at:end], end
    at += 1
    out: list[str] = []
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        out.append(text[at])
        at += 1
    return "".join(out), at + 1


def _is_token68(text: str, equals: int) -> bool:
    """Whether the '=' is padding of a token68 (`Negotiate abc==`) and not of a parameter."""
    rest = text[equals:].lstrip("=").lstrip(" \t")
    return not rest or rest.startswith(",") or text[equals : equals + 2] == "=="


def _skip_token68(text: str, at: int) -> int:
    """Past `abc==` after a scheme; at the same place when parameters follow."""
    start = _blanks(text, at)
    end = start
    while end < len(text) and (text[end] in _TOKEN or text[end] == "/"):
        end += 1
    if end > start and end < len(text) and text[end] == "=" and _is_token68(text, end):
        while end < len(text) and text[end] == "=":
            end += 1
        return end
    return at
