"""What a parser or linter has to say about a text: errors and warnings are one type."""

from __future__ import annotations

from typing import Literal

import msgspec

from lamina.diagnostics.span import Span

Severity = Literal["error", "warning", "info"]


class Diagnostic(msgspec.Struct, frozen=True):
    """`code` is stable (`dockerfile/unknown-flag`, or BuildKit's rule name for lint rules)."""

    severity: Severity
    code: str
    message: str
    span: Span | None = None
    hint: str | None = None
