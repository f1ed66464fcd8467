"""The errors of this room that carry several findings."""

from __future__ import annotations

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import LaminaError


class PipelineError(LaminaError):
    """A pipelines file that Bitbucket would refuse; `diagnostics` has every error, the message is the first one's."""

    code = "pipeline/invalid"
    default_exit = 2

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        first = diagnostics[0]
        super().__init__(first.message, hint=first.hint, spans=(first.span,) if first.span else ())
        self.diagnostics = diagnostics


class StartError(LaminaError):
    """A request that names no pipeline, a variable that is not allowed, an expression that gives no boolean."""

    code = "pipeline/start"
    default_exit = 2


class NotHere(PipelineError):
    """The chosen pipeline is right and cannot run on this machine (agents, shared imports, other platforms …)."""

    code = "pipeline/not-here"
    default_exit = 69
