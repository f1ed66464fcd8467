"""Generated pipelines files: loading and planning never crash, and findings stand where the text is."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.diagnostics.errors import LaminaError
from lamina.diagnostics.render import render
from lamina.pipelines.choose import Start
from lamina.pipelines.globs import compile_glob
from lamina.pipelines.lint import lint
from lamina.pipelines.load import load
from lamina.pipelines.loadsteps import STEP_KEYS
from lamina.pipelines.plan import Request, plan, plan_pipeline
from lamina.pipelines.show import document_of, lines

WORDS = st.sampled_from(
    ["docker", "node", "main", "x", "../a", "$A", "2x", "manual", "true", "**", "{a,b}", "", "a == b", "pipeline", "full", "3"]
)
SCALARS = st.one_of(WORDS, st.none(), st.booleans(), st.integers(-3, 5000), st.text(max_size=8))
KEYS = st.sampled_from(
    [*STEP_KEYS, "step", "parallel", "stage", "final", "steps", "paths", "upload", "download", "changesets", "includePaths", "state", "import", "pipe", "agent", "variables", "default", "path", "key", "files"]
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=12
)
GOOD = {
    "name": st.text(max_size=5),
    "size": st.sampled_from(["1x", "2x", "4x"]),
    "services": st.lists(st.sampled_from(["docker", "db"]), min_size=1, max_size=3),
    "caches": st.lists(st.sampled_from(["docker", "node", "mine"]), min_size=1, max_size=3),
    "artifacts": st.lists(st.sampled_from(["dist/**", "../x", "mine/**"]), min_size=1, max_size=2),
    "condition": st.sampled_from([{"changesets": {"includePaths": ["src/**"]}}, {"state": 'BITBUCKET_BRANCH == "main"'}]),
    "deployment": st.sampled_from(["test", "prod"]),
    "trigger": st.sampled_from(["automatic", "manual"]),
    "clone": st.sampled_from([{"depth": "full"}, {"enabled": False}]),
    "output-variables": st.just(["V"]),
}
STEP = st.fixed_dictionaries(
    {"script": st.lists(st.sampled_from(["make", "docker build .", "exit 1"]), min_size=1, max_size=2)}, optional=GOOD
)
ITEM = st.one_of(
    STEP.map(lambda step: {"step": step}),
    st.lists(STEP.map(lambda step: {"step": step}), min_size=1, max_size=3).map(lambda steps: {"parallel": steps}),
    st.lists(STEP.map(lambda step: {"step": step}), min_size=1, max_size=2).map(lambda steps: {"stage": {"steps": steps}}),
)
PIPELINE = st.lists(ITEM, min_size=1, max_size=3)
FILE = st.fixed_dictionaries(
    {"pipelines": st.fixed_dictionaries({"default": PIPELINE}, optional={"branches": st.dictionaries(st.sampled_from(["main", "**", "feature/*"]), PIPELINE, max_size=2)})},
    optional={"options": st.sampled_from([{"docker": True}, {"size": "2x"}]), "image": st.just("python:3")},
).map(lambda file: {**file, "definitions": {"services": {"db": {"image": "pg", "memory": 2048}}, "caches": {"mine": "mine"}}})  # fmt: skip


def check(text: str) -> None:
    rows = text.split("\n")
    found = lint(text)
    for item in found:
        assert item.span is not None
        assert 1 <= item.span.line <= len(rows) + 1
        assert item.span.column <= len(rows[item.span.line - 1]) + 1 if item.span.line <= len(rows) else item.span.column <= 1
        assert render(item)
    try:
        document = load(text)
    except LaminaError:
        assert any(item.severity == "error" for item in found)
        return
    for start in (Start("branch", "main"), Start("tag", "v1"), Start("pull-request", "feature/x", "main")):
        made = plan(document, Request(start, changed=("src/a",)))
        assert list(lines(made))
        json.dumps(document_of(made))
    for pipeline in document.pipelines():
        made = plan_pipeline(document, pipeline, Request(Start("branch", "main")))
        assert [step.number for step in made.steps() if step.child is None] == sorted(
            step.number for step in made.steps() if step.child is None
        )


@settings(max_examples=150, deadline=None)
@given(FILE)
def test_well_formed_files(file: object) -> None:
    check(json.dumps(file, indent=1))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["pipelines", "definitions", "options", "image", "clone", "triggers", "export"]), ANYTHING, max_size=4)
)
def test_anything_in_place_of_values(file: object) -> None:
    check(json.dumps(file))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_step_with_anything_in_it(data: st.DataObject) -> None:
    step = data.draw(st.dictionaries(st.sampled_from(STEP_KEYS), ANYTHING, max_size=4))
    check(json.dumps({"pipelines": {"default": [{"step": {"script": ["x"]}}, {"step": step}]}}, indent=1))


@settings(max_examples=200, deadline=None)
@given(st.text("ab:-#&*[]{}|>'\"\n\t !%@<~", max_size=60))
def test_any_text(text: str) -> None:
    check(text)


PATTERN = st.text("ab/*?{,}", max_size=8)


@settings(max_examples=300, deadline=None)
@given(PATTERN, PATTERN, st.text("ab/", max_size=6))
def test_what_a_narrower_pattern_matches_a_covering_one_matches(one: str, other: str, text: str) -> None:
    first, second = compile_glob(one), compile_glob(other)
    if first.covers(second) and second.matches(text):
        assert first.matches(text)
