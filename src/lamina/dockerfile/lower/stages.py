"""Which stages there are under which name, what each needs, and the order in which they are lowered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lamina.diagnostics.errors import nearest
from lamina.diagnostics.span import Span
from lamina.dockerfile.instructions import AnyInstruction, Copy, Document, Run, Stage
from lamina.dockerfile.lower.values import LoweringError


@dataclass(slots=True)
class StageState:
    """A stage with what its FROM line means. `base` is another stage, "scratch", or an image (`image`)."""

    stage: Stage
    base: StageState | None = None
    image: str | None = None
    platform: object = None
    triggers: tuple[AnyInstruction, ...] = ()
    needs: list[StageState] = field(default_factory=list)

    @property
    def display(self) -> str:
        return self.stage.name or f"stage-{self.stage.index}"


def find(states: list[StageState], name: str, before: int) -> StageState | None:
    """The stage called `name` among the first `before`; the last of several. Names of stages are lower case: FROM takes no other
    for a stage, --from and --target take any case (their callers lower it)."""
    return next((s for s in reversed(states[:before]) if s.stage.name and s.stage.name == name), None)


def choose_target(document: Document, states: list[StageState], target: str | None) -> StageState:
    """By name, then by number, else the last stage. LoweringError with the nearest name."""
    if target is None:
        return states[-1]
    named = find(states, target.lower(), len(states))
    if named is not None:
        return named
    if target.isdecimal() and int(target) < len(states):
        return states[int(target)]
    names = [s.stage.name for s in states if s.stage.name]
    near = nearest(target.lower(), names)
    raise LoweringError(
        f"target stage {target!r} is not in {document.source.name}",
        hint=f"did you mean {near!r}?" if near else f"stages: {', '.join(names) or f'0 to {len(states) - 1}'}",
    )


def sources(instruction: AnyInstruction) -> list[tuple[str, Span]]:
    """The `from` values of an instruction, as written."""
    if isinstance(instruction, Copy):
        return [(instruction.flags.from_, instruction.span)] if instruction.flags.from_ is not None else []
    if isinstance(instruction, Run):
        found = []
        for mount in instruction.mounts:
            for key, value in mount.pairs:
                if key.lower() == "from" and value:
                    found.append((value, mount.span))
        return found
    return []


def reachable(target: StageState, depends: Callable[[StageState], list[tuple[StageState, Span]]]) -> list[StageState]:
    """The stages that `target` needs, dependencies first. `depends` gives each needed stage with the place that names it. LoweringError for
    a circle, at the place that closes it."""
    order: list[StageState] = []
    done: set[int] = set()
    open_: list[StageState] = []
    stack: list[tuple[StageState, Span, bool]] = [(target, target.stage.from_.span, False)]
    while stack:
        state, span, leaving = stack.pop()
        if leaving:
            open_.pop()
            if id(state) not in done:
                done.add(id(state))
                order.append(state)
            continue
        if id(state) in done:
            continue
        if any(state is other for other in open_):
            raise LoweringError(
                f"circular dependency: stage {state.display} needs itself", spans=(span,), hint="a stage can copy only from others"
            )
        open_.append(state)
        stack.append((state, span, True))
        stack.extend((other, where, False) for other, where in reversed(depends(state)))
    return order
