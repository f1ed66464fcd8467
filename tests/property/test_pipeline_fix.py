"""Generated files with colliding steps, in block and in flow style: a fix loads, collides no more, keeps every other command, and is stable."""

from __future__ import annotations

import json

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.pipelines.fix import FixError, fix
from lamina.pipelines.lintdocker import colliding, groups
from lamina.pipelines.load import load
from lamina.pipelines.model import Command

COMMAND = st.sampled_from(
    [
        "make",
        "docker build .",
        "docker build -f a/D -t x a",
        "echo 'a: b' # c",
        "cd x\ndocker build .\n",
        "docker buildx build .",
        'docker build "$X"',
        "true; docker image build .",
    ]
)
STEP = st.fixed_dictionaries(
    {"script": st.lists(COMMAND, min_size=1, max_size=3)},
    optional={
        "name": st.sampled_from(["Build 1", "Build: 2", "Ünïcode", "", "a/b"]),
        "caches": st.sampled_from([["docker"], ["docker", "node"], ["node", "docker"], ["node"]]),
        "services": st.just(["docker"]),
        "max-time": st.just(5),
    },
)  # fmt: skip
GROUP = st.lists(STEP.map(lambda step: {"step": step}), min_size=2, max_size=4).map(lambda steps: {"parallel": steps})
HEADS = st.sampled_from(
    [{}, {"definitions": {"caches": {"docker-build-1": "x"}}}, {"definitions": {"services": {"docker": {"memory": 2048}}}}]
)


def scripts(text: str) -> list[list[str]]:
    return [[item.text for item in step.script if isinstance(item, Command)] for p in load(text).pipelines() for step in p.steps()]


@settings(max_examples=150, deadline=None)
@given(HEADS, st.lists(GROUP, min_size=1, max_size=2), st.booleans())
def test_fix(head: dict[str, object], items: list[object], block: bool) -> None:
    file = {**head, "pipelines": {"default": items}}
    text = yaml.safe_dump(file, sort_keys=False, allow_unicode=True, width=1000) if block else json.dumps(file, indent=1)
    try:
        result = fix(text)
    except FixError:
        return
    assert not any(colliding(group) for group in groups(load(result.text)))
    before, after = scripts(text), scripts(result.text)
    assert len(before) == len(after)
    for old, new in zip(before, after):
        kept = [command for command in new if not command.startswith("if [ ")]
        assert len(kept) == len(old)
        assert [command for command in old if "build" not in command] == [command for command in kept if "build" not in command]
        assert len(new) - len(old) in (0, 2)
    assert fix(result.text).diff == ""
