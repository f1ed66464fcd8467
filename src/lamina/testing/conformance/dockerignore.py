""".dockerignore: the matcher's verdict, and what a walk sends, against recorded results of BuildKit's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lamina.dockerfile.ignore import IgnoreDirectory, IgnoreError, IgnoreRules, parse_patterns
from lamina.testing.conformance import Outcome, compare, locate

Tree = dict[str, "Tree | None"]


def run(directory: Path) -> Iterator[Outcome]:
    for case in json.loads(
        locate(directory, "cases.json", "dockerignore/cases.json", "dockerfiles/dockerignore/cases.json").read_text(encoding="utf-8")
    ):
        text: str = case["dockerignore"]
        found = compare("patterns", list(parse_patterns(text)), case["patterns"] or [])
        refused = case.get("match_error")
        try:
            rules = IgnoreRules.parse(text)
        except IgnoreError as error:
            yield Outcome(case["name"], found if refused else (*found, f"refused: {error.message}"))
            continue
        if refused:
            yield Outcome(case["name"], (*found, f"accepted, recorded is the error {refused!r}"))
            continue
        got = {path: rules.ignored(path) for path in case["ignored"]}
        wrong = {path: verdict for path, verdict in got.items() if verdict != case["ignored"][path]}
        found += compare("verdicts that differ", wrong, {})
        found += compare("sent", sorted(_sent(rules.root(), _tree(case["tree"]))), sorted(case["sent"] or []))
        yield Outcome(case["name"], found)


def _tree(paths: list[str]) -> Tree:
    root: Tree = {}
    for written in paths:
        path = written.split(" -> ", 1)[0]
        node = root
        *parents, name = path.rstrip("/").split("/")
        for parent in parents:
            child = node.setdefault(parent, {})
            assert child is not None
            node = child
        node.setdefault(name, {} if path.endswith("/") else None)
    return root


def _sent(directory: IgnoreDirectory, tree: Tree) -> list[str]:
    """What a walk sends below `directory`: paths, directories with a slash."""
    prefix = directory.path + "/" if directory.path else ""
    sent = [prefix + name for name in directory.kept([name for name, below in tree.items() if below is None])]
    for name, below in tree.items():
        if below is not None:
            child = directory.directory(name)
            if not child.skip:
                inside = _sent(child, below)
                if inside or not child.ignored:
                    sent += [f"{child.path}/", *inside]
    return sent
