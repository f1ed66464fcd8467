"""pytest's fixture `lamina_build`: what a change of files would cost, held by a test. Keys only; nothing is built, no store is opened.

Loaded by pytest through an entry point; imports of lamina wait until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lamina.engine.replay_keys import Keyed


class LaminaBuild:
    """A build of a context. `context` and `dockerfile` are relative to pytest's rootdir; `args` are build arguments."""

    def __init__(
        self,
        root: Path,
        context: str = ".",
        *,
        dockerfile: str | None = None,
        target: str | None = None,
        args: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root
        self._folder = root / context
        self._dockerfile = root / dockerfile if dockerfile is not None else None
        self._target = target
        self._args = dict(args or {})

    def __call__(
        self, context: str = ".", *, dockerfile: str | None = None, target: str | None = None, args: Mapping[str, str] | None = None
    ) -> LaminaBuild:
        """Another build of the same project."""
        return LaminaBuild(self._root, context, dockerfile=dockerfile, target=target, args=args)

    def steps(self) -> list[str]:
        """The instructions that make layers, as they are written, in their order."""
        return [step.step.text for step in self._keys(())]

    def rebuilt(self, changed: Sequence[str]) -> list[str]:
        """The instructions that would run again if these files and folders of the context changed."""
        return [step.step.text for step in self._missed(changed)]

    def assert_cached(self, changed: Sequence[str], *, but: Sequence[str] = ()) -> None:
        """Fail if a change of these files and folders would run any instruction again, other than those that begin with a text of `but`.

        A folder stands for each file in it and a new one, a name that is not there for a file that is added. The Dockerfile's text stays.
        """
        __tracebackhide__ = True
        missed = self._missed(changed)
        wrong = [step for step in missed if not step.step.text.startswith(tuple(but))] if but else missed
        if not wrong:
            return
        before = {(step.step.stage, step.step.index): step for step in self._keys(())}
        lines = [f"a change of {', '.join(changed)} runs {len(wrong)} step{'s' if len(wrong) != 1 else ''} again:"]
        for step in wrong:
            own = step.own != before[step.step.stage, step.step.index].own
            causes = [name for name in changed if own and any(_same(step, one) for one in self._missed([name]))]
            why = f"it takes {', '.join(causes)}" if causes else "a step before it does"
            lines.append(f"  line {step.step.line}: {step.step.text}  ({why})")
        raise AssertionError("\n".join(lines))

    def _missed(self, changed: Sequence[str]) -> list[Keyed]:
        known = {step.key for step in self._keys(())}
        return [step for step in self._keys(changed) if step.key not in known]

    def _keys(self, changed: Sequence[str]) -> list[Keyed]:
        from lamina.dockerfile import DockerfileError, parse
        from lamina.dockerfile.ignore import IgnoreRules
        from lamina.dockerfile.lower import Options
        from lamina.engine.contextfiles import read_dockerfile
        from lamina.engine.engine import own_platform
        from lamina.engine.replay_keys import keys_of, lowered, unknown_base
        from lamina.layer.context import ContextTree
        from lamina.testing.changedtree import ChangedTree

        name, text, ignore, _ = read_dockerfile(self._folder, self._dockerfile)
        document = parse(text, name)
        if document.errors:
            raise DockerfileError(document.errors)
        rules = IgnoreRules.parse(ignore) if ignore is not None else None
        own = own_platform()
        options = Options(target=self._target, args=self._args, build_platform=own, platform=own)
        tree = ChangedTree(ContextTree(self._folder, rules), changed, rules)
        graph, states = lowered(document, options, unknown_base)
        return keys_of(graph, states, lambda context: tree)


def _same(one: Keyed, other: Keyed) -> bool:
    return (one.step.stage, one.step.index) == (other.step.stage, other.step.index)


@pytest.fixture
def lamina_build(request: pytest.FixtureRequest) -> LaminaBuild:
    """The build of the Dockerfile in pytest's rootdir; call it for another one."""
    return LaminaBuild(request.config.rootpath)
