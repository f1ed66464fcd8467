from __future__ import annotations

import pytest

from lamina.pipelines.choose import Start, choose, triggered
from lamina.pipelines.errors import StartError
from lamina.pipelines.load import load

FILE = """
pipelines:
  default: &steps
    - step: {script: [x]}
  branches:
    main: *steps
    'release/*': *steps
    '*/hotfix': *steps
  tags:
    'v*': *steps
  pull-requests:
    'feature/*': *steps
  custom:
    nightly: *steps
triggers:
  pipeline-completed:
    - {condition: 'BITBUCKET_TRIGGER_PIPELINE_STATUS == "FAILED"', pipelines: [nightly]}
"""


def path(start: Start, text: str = FILE) -> str | None:
    found = choose(load(text), start).pipeline
    return None if found is None else found.path


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Start("branch", "main"), "pipelines.branches.main"),
        (Start("branch", "other"), "pipelines.default"),
        (Start("branch", "release/1"), "pipelines.branches.release/*"),
        (Start("tag", "v1"), "pipelines.tags.v*"),
        (Start("tag", "x"), None),
        (Start("pull-request", "feature/a", "main"), "pipelines.pull-requests.feature/*"),
        (Start("pull-request", "main", "main"), None),
        (Start("custom", "nightly"), "pipelines.custom.nightly"),
        (Start("branch", "main", message="x [skip ci]"), None),
        (Start("branch", "main", message="[ci skip] x"), None),
        (Start("tag", "v1", message="[skip ci]"), "pipelines.tags.v*"),
        (Start("branch", "main", refs=6), None),
        (Start("branch", "main", refs=5), "pipelines.branches.main"),
    ],
)
def test_what_starts(start: Start, expected: str | None) -> None:
    assert path(start) == expected


def test_a_reason_is_always_given() -> None:
    for start in (Start("branch", "x"), Start("branch", "main"), Start("tag", "x"), Start("pull-request", "x")):
        assert choose(load(FILE), start).reason


def test_a_tie_is_told_with_both_patterns() -> None:
    choice = choose(load(FILE), Start("branch", "release/hotfix"))
    assert choice.pipeline is not None
    assert choice.pipeline.name == "release/*"
    assert '"*/hotfix"' in choice.notes[0].message


def test_an_unknown_custom_pipeline_is_an_error_with_the_near_name() -> None:
    with pytest.raises(StartError) as caught:
        choose(load(FILE), Start("custom", "nightyl"))
    assert caught.value.hint == 'did you mean "nightly"?'


def test_no_default_for_a_branch() -> None:
    text = "pipelines:\n  branches:\n    main: [{step: {script: [x]}}]\n"
    assert path(Start("branch", "x"), text) is None


def test_destinations_of_a_pull_request() -> None:
    text = "pipelines:\n  pull-requests:\n    '**': {destinations: {main: [{step: {script: [x]}}]}}\n"
    assert path(Start("pull-request", "a", "main"), text) == "pipelines.pull-requests.**.destinations.main"
    assert path(Start("pull-request", "a", "develop"), text) is None


def test_triggers() -> None:
    document = load(FILE)
    assert [one.name for one in triggered(document, "pipeline-completed", {"BITBUCKET_TRIGGER_PIPELINE_STATUS": "FAILED"})] == ["nightly"]
    assert triggered(document, "pipeline-completed", {}) == ()
    assert triggered(document, "repository-push", {}) == ()
