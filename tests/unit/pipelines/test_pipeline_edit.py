from __future__ import annotations

import pytest

from lamina.pipelines.edit import Edits, flow, last_line
from lamina.pipelines.tree import Mapping, Sequence
from lamina.pipelines.yamltext import parse


def test_edits_are_made_at_once() -> None:
    edits = Edits("one\ntwo\nthree")
    edits.replace(edits.offset(2, 1), edits.offset(2, 4), "2")
    edits.before_line(1, "zero")
    edits.after_line(3, "four")
    edits.after_line(2, "two and a half")
    assert edits.apply() == "zero\none\n2\ntwo and a half\nthree\nfour"


def test_dropped_lines() -> None:
    edits = Edits("a\nb\nc\n")
    edits.drop_lines(2, 2)
    assert edits.apply() == "a\nc\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n  - x\n  - y # c\n\n# z\nb: 1\n", 3),
        ("a:\n  - |\n    x\n    y\n\n\nb: 1\n", 4),
        ("a:\n  - x: 1\n    y:\n      - z\n# c\nb: 1\n", 4),
        ("a: [x,\n  y\n  ]\nb: 1\n", 3),
        ("a:\n  - 'x\n    y'\nb: 1\n", 3),
        ("a:\n  - x\n   # c\n  - long\n    text\nb: 1", 5),
    ],
)
def test_where_a_value_ends(text: str, line: int) -> None:
    root = parse(text).root
    assert isinstance(root, Mapping)
    node = root.get("a")
    assert node is not None
    assert last_line(node) == line


def test_flow() -> None:
    root = parse("a: [x]\nb:\n  - x\n").root
    assert isinstance(root, Mapping)
    found = [root.get("a"), root.get("b")]
    assert [flow(node) for node in found if isinstance(node, Sequence)] == [True, False]
