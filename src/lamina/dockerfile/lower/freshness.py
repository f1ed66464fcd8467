"""`# lamina: max-age=1d` and `# lamina: watch=https://…` in the comment lines right above an instruction."""

from __future__ import annotations

import re

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.diagnostics.span import Span
from lamina.dockerfile.lower.values import LoweringError, ascii_url

# Compiled where a comment is one of ours; patterns cost a small build more than what they look at.
_COMMENT = r"(?i)\s*lamina:\s*(?P<name>[a-z-]+)\s*=\s*(?P<value>\S+)\s*\Z"
_DURATION = r"(\d+(?:\.\d+)?)([smhdw])"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Declared(msgspec.Struct, frozen=True):
    """`max_age` in seconds."""

    max_age: float | None = None
    watch: tuple[str, ...] = ()


def declared(comments: tuple[str, ...], span: Span) -> Declared:
    """What the comments say; LoweringError for a comment that begins with `lamina:` and says nothing that is known."""
    age: float | None = None
    watch: list[str] = []
    for comment in comments:
        if not comment.lstrip().lower().startswith("lamina:"):
            continue
        found = re.match(_COMMENT, comment)
        name = found["name"].lower() if found else ""
        if found and name == "max-age":
            age = _duration(found["value"], span)
        elif found and name == "watch":
            if not found["value"].startswith(("http://", "https://")):
                raise LoweringError(f"# lamina: watch={found['value']} is not an http or https URL", spans=(span,))
            watch.append(ascii_url(found["value"]))
        else:
            near = nearest(name, ["max-age", "watch"])
            raise LoweringError(
                f"# {comment.strip()} is not understood",
                spans=(span,),
                hint=f"did you mean {near}?" if near else "known: # lamina: max-age=1d and # lamina: watch=https://…",
            )
    return Declared(age, tuple(watch))


def _duration(text: str, span: Span) -> float:
    if not re.fullmatch(f"(?:{_DURATION})+", text):
        raise LoweringError(f"# lamina: max-age={text} is not a duration", spans=(span,), hint="for example 12h, 90m or 1d")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_DURATION, text))
