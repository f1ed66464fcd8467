from __future__ import annotations

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.choose import Start
from lamina.pipelines.errors import StartError
from lamina.pipelines.load import load
from lamina.pipelines.plan import Request, plan

MAIN = """
image: mine
definitions:
  imports: {shared: ci/shared-pipelines.yml}
pipelines:
  default: {import: build@shared}
"""
SHARED = """
export: true
image: theirs
definitions:
  caches: {c: x}
  pipelines:
    build: [{step: {script: [make], caches: [c]}}]
"""


def planned(files: dict[str, str], text: str = MAIN) -> object:
    return plan(load(text), Request(Start("branch", "main")), files.get)


def test_the_imported_files_image_and_definitions_hold() -> None:
    made = plan(load(MAIN), Request(Start("branch", "main")), {"ci/shared-pipelines.yml": SHARED}.get)
    (step,) = made.steps()
    assert step.image.name == "theirs"
    assert step.caches[0].path == "x"
    assert step.span.source.name == "ci/shared-pipelines.yml"


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(StartError, match="not in the repository") as caught:
        planned({})
    assert caught.value.spans[0].line == 4


def test_a_pipeline_that_is_not_there() -> None:
    with pytest.raises(StartError) as caught:
        planned({"ci/shared-pipelines.yml": SHARED}, MAIN.replace("build@", "biuld@"))
    assert caught.value.hint == 'did you mean "build"?'


@pytest.mark.parametrize("path", ["../x-pipelines.yml", "/etc/pipelines.yml", "a/../../pipelines.yml"])
def test_a_path_that_leaves_the_repository_is_never_read(path: str) -> None:
    asked: list[str] = []

    def read(wanted: str) -> str | None:
        asked.append(wanted)
        return SHARED

    with pytest.raises(StartError, match="leaves the repository"):
        plan(load(MAIN.replace("ci/shared-pipelines.yml", path)), Request(Start("branch", "main")), read)
    assert asked == []


def test_an_import_cannot_import() -> None:
    nested = "export: true\ndefinitions: {pipelines: {build: {import: 'a:b:c'}}}\n"
    with pytest.raises(LaminaError, match="cannot import another one"):
        planned({"ci/shared-pipelines.yml": nested})


def test_a_source_in_another_repository_is_a_problem_not_a_failure() -> None:
    made = plan(load(MAIN.replace("ci/shared-pipelines.yml", "other-repo:main")), Request(Start("branch", "main")))
    assert [item.code for item in made.problems] == ["pipeline/shared-import"]
