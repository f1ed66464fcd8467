"""Which stages there are under which name, what each needs, and the order in which they are lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from lamina.diagnostics.errors import nearest
from lamina.diagnostics.span import Span
from lamina.dockerfile.instructions import AnyInstruction, Copy, Document, Run, Stage
from lamina.dockerfile.lower.values import LoweringError
from lamina.oci.platform import Platform


class StageState(msgspec.Struct):
    """A stage with what its FROM line means: another stage (`base`) or the name of something else (`image`).

    `replaced`: a named context stands in its place, and its instructions are not run. `triggered`: its ONBUILD triggers are known.
    """

    stage: Stage
    platform: Platform
    base: StageState | None = None
    image: str | None = None
    replaced: bool = False
    triggers: tuple[AnyInstruction, ...] = ()
    triggered: bool = False

    @property
    def instructions(self) -> tuple[AnyInstruction, ...]:
        """Those that are run, triggers first."""
        return () if self.replaced else (*self.triggers, *self.stage.instructions)

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


def reachable(targets: Iterable[StageState], depends: Callable[[StageState], list[tuple[StageState, Span]]]) -> list[StageState]:
    """The stages that `targets` need, in the order of the file. `depends` gives each needed stage with the place that names it.
    LoweringError for a circle, at the place that closes it."""
    done: dict[int, StageState] = {}
    open_: set[int] = set()
    stack: list[tuple[StageState, Span, bool]] = [(target, target.stage.from_.span, False) for target in targets][::-1]
    while stack:
        state, span, leaving = stack.pop()
        index = state.stage.index
        if leaving:
            open_.discard(index)
            done[index] = state
        elif index in open_:
            raise LoweringError(
                f"circular dependency: stage {state.display} needs itself", spans=(span,), hint="a stage can copy only from others"
            )
        elif index not in done:
            open_.add(index)
            stack.append((state, span, True))
            stack.extend((other, where, False) for other, where in reversed(depends(state)))
    return [done[index] for index in sorted(done)]
