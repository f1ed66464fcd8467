from __future__ import annotations

import pytest

from lamina.pipelines.fix import FixError, fix
from lamina.pipelines.lint import lint
from lamina.pipelines.load import load
from lamina.pipelines.model import Command, Parallel

COLLIDING = """# head comment
image: alpine:3.20   # pinned

pipelines:
  default:
    - parallel:
      # the first
      - step:
          name: 'Build: API'
          caches:
            - node   # kept
            - docker # shared
          services:
            - docker
          script:
            - cd api  # go
            # then
            - docker build -f docker/api.Dockerfile . && echo ok
            - |
              docker push x
              echo pushed

          # after the script
          max-time: 5
      - step:
          name: Web
          caches: [docker]
          services: [docker]
          script: [docker build web/, 'echo "done"']
"""


def commands(text: str) -> list[list[str]]:
    document = load(text)
    assert document.default is not None
    group = document.default.items[0]
    assert isinstance(group, Parallel)
    return [[item.text for item in step.script if isinstance(item, Command)] for step in group.steps]


def test_each_step_gets_a_keyed_cache_of_its_own() -> None:
    fixed = load(fix(COLLIDING).text)
    caches = fixed.definitions.caches
    assert {name: [str(file) for file in cache.key_files] for name, cache in caches.items()} == {
        "docker-build-api": ["docker/api.Dockerfile"],
        "docker-web": ["web/Dockerfile"],
    }
    assert len({cache.path for cache in caches.values()}) == 2
    assert all(cache.path.startswith("~/") for cache in caches.values())
    assert fixed.default is not None
    assert [[str(name) for name in step.caches] for step in fixed.default.steps()] == [["node", "docker-build-api"], ["docker-web"]]


def test_scripts_load_first_and_save_last_on_a_miss_only() -> None:
    first, second = commands(fix(COLLIDING).text)
    archive = "~/.docker-cache/docker-build-api/images.tar"
    assert first == [
        f"if [ -f {archive} ]; then docker load --input {archive}; fi",
        "cd api",
        "docker build --tag build-cache/docker-build-api --cache-from build-cache/docker-build-api -f docker/api.Dockerfile . && echo ok",
        "docker push x\necho pushed\n",
        f"if [ ! -f {archive} ]; then mkdir -p ~/.docker-cache/docker-build-api && docker save --output {archive} build-cache/docker-build-api; fi",
    ]
    assert second[0].startswith("if [ -f ")
    assert second[1] == "docker build --tag build-cache/docker-web --cache-from build-cache/docker-web web/"
    assert second[2] == 'echo "done"'
    assert second[3].startswith("if [ ! -f ")


def test_comments_and_all_other_lines_stay() -> None:
    new = fix(COLLIDING).text.split("\n")
    changed = ("- docker # shared", "- docker build", "caches: [docker]", "script: [docker build")
    for line in COLLIDING.split("\n"):
        assert line in new or any(word in line for word in changed), line
    assert "            - docker-build-api # shared" in new


def test_the_diff_turns_the_old_file_into_the_new_one() -> None:
    result = fix(COLLIDING, "bitbucket-pipelines.yml")
    assert result.diff.startswith("--- a/bitbucket-pipelines.yml\n+++ b/bitbucket-pipelines.yml\n@@")
    removed = [line[1:] for line in result.diff.split("\n")[2:] if line.startswith("-")]
    assert all(line in COLLIDING for line in removed)


def test_the_new_file_has_no_such_finding_and_is_not_fixed_again() -> None:
    result = fix(COLLIDING)
    assert not {"pipeline/docker-cache-in-parallel", "pipeline/saved-images"} & {item.code for item in lint(result.text)}
    assert fix(result.text).diff == ""


def test_nothing_to_do() -> None:
    text = "pipelines: {default: [{step: {caches: [docker], services: [docker], script: [docker build .]}}]}"
    assert fix(text).text == text
    assert fix(text).diff == ""


STEP = "      - step: {{name: {name}, caches: [docker], services: [docker], script: ['{command}']}}\n"


def group(*commands_of_steps: str, head: str = "") -> str:
    steps = "".join(STEP.format(name=f"S{number}", command=command) for number, command in enumerate(commands_of_steps))
    return f"{head}pipelines:\n  default:\n    - parallel:\n{steps}"


@pytest.mark.parametrize(
    "head",
    ["definitions:\n  caches:\n    docker-s0: old\n", "definitions:\n  services:\n    docker: {memory: 2048}\n", "# only a comment\n"],
)
def test_caches_are_added_to_what_is_defined(head: str) -> None:
    fixed = load(fix(group("docker build .", "docker build .", head=head)).text)
    names = set(fixed.definitions.caches)
    assert len(names - {"docker-s0"}) == 2 or names == {"docker-s0", "docker-s1"}
    assert all(cache.key_files for name, cache in fixed.definitions.caches.items() if cache.path != "old")


def test_two_builds_in_one_step_are_both_saved() -> None:
    one, _ = commands(fix(group("docker build -t a one && docker build -t b -f two/D two", "docker build .")).text)
    assert "--tag build-cache/docker-s0" in one[1]
    text = fix(
        group("docker build .", "docker build .").replace("script: ['docker build .']", "script: [docker build a, docker build b]", 1)
    ).text
    first, _ = commands(text)
    assert first[-1].endswith("build-cache/docker-s0 build-cache/docker-s0-2; fi")
    assert [str(file) for file in load(text).definitions.caches["docker-s0"].key_files] == ["a/Dockerfile", "b/Dockerfile"]


def test_a_step_that_gains_nothing_loses_the_cache_with_a_note() -> None:
    text = """pipelines:
  default:
    - parallel:
      - step:
          caches: [docker]
          services: [docker]
          script: [docker build .]
      - step:
          caches:
            - node
            - docker
          services: [docker]
          script: [export DOCKER_BUILDKIT=1, docker build .]
      - step:
          caches:
            - docker
          script: [make]
"""
    result = fix(text)
    document = load(result.text)
    assert document.default is not None
    assert [[str(name) for name in step.caches] for step in document.default.steps()] == [["docker-step"], ["node"], []]
    assert [("BuildKit" in note.message, "docker service" in note.message) for note in result.notes] == [(True, False), (False, True)]


def test_one_text_for_several_steps_of_a_group_cannot_be_fixed() -> None:
    text = """definitions:
  steps:
    - step: &s
        caches: [docker]
        services: [docker]
        script: [docker build .]
pipelines:
  default:
    - parallel: [{step: *s}, {step: *s}]
"""
    with pytest.raises(FixError) as caught:
        fix(text)
    assert caught.value.spans[0].line == 4


def test_a_text_that_stands_in_two_pipelines_is_changed_once() -> None:
    text = """definitions:
  steps:
    - step: &a
        name: A
        caches: [docker]
        services: [docker]
        script:
          - docker build a
    - step: &b
        name: B
        caches: [docker]
        services: [docker]
        script:
          - docker build b
pipelines:
  default: &p
    - parallel: [{step: *a}, {step: *b}]
  branches:
    main:
      - parallel: [{step: *a}, {step: *b}]
"""
    fixed = fix(text).text
    assert fixed.count("docker load") == 2
    assert fixed.count("docker save") == 2


def test_windows_line_ends_and_a_missing_last_one() -> None:
    text = COLLIDING.rstrip("\n").replace("\n", "\r\n")
    fixed = fix(text).text
    assert fixed.replace("\r\n", "").count("\n") == 0
    assert len(load(fixed).definitions.caches) == 2
