"""What a step asks of a worker, and what of a pipeline no cluster can do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.pipelines.errors import NotHere
from lamina.pipelines.plan import PlannedStep
from lamina.pipelines.remote.cluster import Needs
from lamina.pipelines.resources import FACTORS

_PLAIN = frozenset({"self.hosted", "linux", "linux.arm64", "linux.shell"})
"""Labels of runs-on that Bitbucket itself gives to runners; the others are the user's."""
_FINAL = 1_000_000


def needs_of(planned: PlannedStep) -> Needs:
    """Memory as the step's size has it, services included; a processor for each size factor, or as many as `runtime.self-hosted` says."""
    own = planned.runtime.self_hosted if planned.runtime is not None else None
    cpus = own.cpu if own is not None and own.cpu is not None else FACTORS.get(planned.size, 1)
    labels = own_labels(planned)
    return Needs(planned.memory.total, float(cpus), labels[0] if labels else "")


def own_labels(planned: PlannedStep) -> list[str]:
    return sorted({text.value for text in planned.runs_on if text.value.lower() not in _PLAIN})


def priority_of(planned: PlannedStep) -> int:
    """The final step first, then as in the file."""
    return _FINAL if planned.final else -planned.number


def must_fit(steps: Iterable[PlannedStep], fits: Callable[[Needs], str], engine: str) -> None:
    """Raises NotHere with each step that no worker could take."""
    found: list[Diagnostic] = []
    for planned in steps:
        labels = own_labels(planned)
        why = fits(needs_of(planned))
        if len(labels) > 1:
            why = f"runs-on has {len(labels)} labels of its own ({', '.join(labels)}); on a cluster a step may have one"
        if why:
            message = f"{planned.step.path}: no worker of {engine} can run it: {why}"
            found.append(Diagnostic("error", "pipeline/no-worker", message, planned.span))
    if found:
        raise NotHere(tuple(found))
