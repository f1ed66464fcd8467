"""docs/reference/lint.md: every rule is there, its bad example is reported by it, its good one by none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lamina.dockerfile import parse
from lamina.dockerfile.ignore import IgnoreRules
from lamina.dockerfile.lint import lint
from lamina.dockerfile.lintrules import RULES, SUMMARIES

PAGE = Path(__file__).parents[3] / "docs/reference/lint.md"
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]}


def codes(text: str) -> list[str]:
    document = parse(text)
    assert document.errors == ()
    found = lint(
        document,
        ignore=IgnoreRules.parse("secret\n*.tmp\n"),
        base_platforms={"arm.example/app:1": "linux/arm64"},
        platform="linux/amd64",
    )
    return [item.code for item in found]


def test_every_rule_has_its_section_and_no_other() -> None:
    assert list(SECTIONS) == list(RULES) == list(SUMMARIES)


@pytest.mark.parametrize("rule", SECTIONS)
def test_examples(rule: str) -> None:
    bad, good = re.findall(r"^```dockerfile\n(.*?)^```$", SECTIONS[rule], flags=re.MULTILINE | re.DOTALL)
    assert rule in codes(bad)
    assert codes(good) == []
