"""What a CopyAction takes from its input: the same answer for its key and for the copy."""

from __future__ import annotations

from collections.abc import Callable

from lamina.graph.ops import CopyAction
from lamina.layer.modes import ModeRule
from lamina.layer.selection import Excluded, Selection, select
from lamina.layer.tree import FileTree

Exclusion = Callable[[tuple[str, ...]], Excluded | None]


def exclusion(patterns: tuple[str, ...]) -> Excluded | None:
    """`--exclude`: dockerignore rules over paths relative to the source; None for no patterns."""
    if not patterns:
        return None
    from lamina.dockerfile.ignore import IgnoreRules

    rules = IgnoreRules(patterns)
    return lambda path: rules.ignored(path.decode("utf-8", "surrogateescape"))


def selection_of(action: CopyAction, tree: FileTree, excluded: Exclusion = exclusion) -> Selection:
    """What the action takes from its input. SourceNotFound as select() says."""
    return select(
        tree,
        action.source,
        wildcard=action.wildcard,
        include=[pattern for pattern in action.include if pattern],
        excluded=excluded(action.exclude),
        follow_symlink=action.follow_symlink,
        required=action.required,
        mode=ModeRule(action.mode) if action.mode is not None else None,
        owned=action.owner is not None,
    )
