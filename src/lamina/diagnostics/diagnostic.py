"""What a parser or linter has to say about a text: errors and warnings are one type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lamina.diagnostics.span import Span

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """`code` is stable (`dockerfile/unknown-flag`, or BuildKit's rule name for lint rules)."""

    severity: Severity
    code: str
    message: str
    span: Span | None = None
    hint: str | None = None
