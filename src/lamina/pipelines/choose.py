"""Which pipeline a push, a tag, a pull request or a hand starts."""

from __future__ import annotations

from typing import Literal

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.errors import nearest
from lamina.pipelines import globs
from lamina.pipelines.errors import StartError
from lamina.pipelines.model import Document, Pipeline

SKIP_MARKS = ("[skip ci]", "[ci skip]")
MAX_REFS = 5


class Start(msgspec.Struct, frozen=True):
    """What happened. `name` is the branch, the tag, the pull request's source branch or the custom pipeline; `message` the head commit's, of a branch push.
    `branch` is where a custom pipeline runs. `refs` counts what one push moved."""

    kind: Literal["branch", "tag", "pull-request", "custom"]
    name: str
    destination: str = ""
    message: str = ""
    branch: str = ""
    refs: int = 1


class Choice(msgspec.Struct, frozen=True):
    """`pipeline` None: nothing starts, and `reason` says why. `notes` warn of guesses."""

    pipeline: Pipeline | None
    reason: str
    notes: tuple[Diagnostic, ...] = ()


def choose(document: Document, start: Start) -> Choice:
    """Raises StartError for a custom pipeline that is not there; a push that starts nothing is an answer, not an error."""
    if start.kind == "custom":
        return _custom(document, start.name)
    if start.refs > MAX_REFS:
        return Choice(None, f"a push of more than {MAX_REFS} branches and tags starts nothing")
    if start.kind == "branch":
        mark = next((mark for mark in SKIP_MARKS if mark in start.message), None)
        if mark is not None:
            return Choice(None, f"the head commit's message holds {mark}")
        choice = _pattern(document.branches, start.name, "branch")
        if choice.pipeline is None and document.default is not None:
            reason = f"no pattern of pipelines.branches matches {start.name}" if document.branches else "every branch has it"
            return Choice(document.default, f"default: {reason}", choice.notes)
        return choice
    if start.kind == "tag":
        return _pattern(document.tags, start.name, "tag")
    choice = _pattern(document.pull_requests, start.name, "pull request of branch")
    if choice.pipeline is None or not choice.pipeline.destinations:
        return choice
    inner = _pattern(choice.pipeline.destinations, start.destination, "pull request to branch")
    return Choice(inner.pipeline, inner.reason, choice.notes + inner.notes)


def _pattern(pipelines: tuple[Pipeline, ...], name: str, what: str) -> Choice:
    found = globs.choose([pipeline.name for pipeline in pipelines], name)
    if found is None:
        return Choice(None, f"no pattern matches the {what} {name}" if pipelines else f"the file has no pipeline for a {what}")
    winner = pipelines[found.index]
    notes: tuple[Diagnostic, ...] = ()
    if found.ties:
        others = ", ".join(f'"{pipelines[index].name}"' for index in found.ties)
        notes = (
            Diagnostic(
                "warning",
                "pipeline/tied-patterns",
                f'"{winner.name}" and {others} match {name} and none is the more specific one; "{winner.name}" is taken here, Bitbucket may take another',
                winner.span,
                "make the patterns exclude each other",
            ),
        )
    exact = "is the exact name" if winner.name == name else f"matches {name}"
    return Choice(winner, f'{winner.kind} "{winner.name}" {exact}', notes)


def _custom(document: Document, name: str) -> Choice:
    found = document.custom.get(name)
    if found is None:
        near = nearest(name, tuple(document.custom))
        hint = (
            f'did you mean "{near}"?'
            if near
            else f"the file has {', '.join(document.custom)}"
            if document.custom
            else "the file has no custom pipelines"
        )
        raise StartError(f'no custom pipeline is named "{name}"', hint=hint)
    return Choice(found, f'custom "{name}" was asked for')


def triggered(document: Document, event: str, variables: dict[str, str]) -> tuple[Pipeline, ...]:
    """The custom pipelines that an event of `triggers` starts. Raises ExpressionError."""
    from lamina.pipelines.expressions import evaluate

    names = [
        name.value for one in document.triggers if one.event == event and evaluate(one.condition.value, variables) for name in one.pipelines
    ]
    return tuple(document.custom[name] for name in dict.fromkeys(names) if name in document.custom)
