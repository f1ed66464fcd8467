from __future__ import annotations

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.pipelines.errors import PipelineError
from lamina.pipelines.load import load
from lamina.pipelines.model import Command, Final, Parallel, Pipe, Stage, Step

STEP = "pipelines:\n  default:\n    - step:\n        script: [make]\n"


def refusals(text: str) -> list[tuple[int, str]]:
    with pytest.raises(PipelineError) as caught:
        load(text)
    return [(item.span.line if item.span else 0, item.message) for item in caught.value.diagnostics]


def warnings(text: str) -> list[tuple[int, str]]:
    return [(item.span.line if item.span else 0, item.message) for item in load(text).warnings]


def first_step(text: str) -> Step:
    document = load(text)
    assert document.default is not None
    step = document.default.items[0]
    assert isinstance(step, Step)
    return step


def test_a_step_with_every_key() -> None:
    step = first_step("""
definitions:
  services: {db: {image: 'postgres:16', memory: 512, variables: {A: b}}}
  caches: {mine: {path: x, key: {files: [lock, '*.toml']}}}
pipelines:
  default:
    - step:
        name: All
        image: {name: i, username: $U, password: $P, run-as-user: 1000}
        size: 4x
        max-time: 30
        services: [db, docker]
        caches: [mine, node]
        clone: {depth: full, lfs: true}
        condition:
          changesets: {includePaths: ['src/**']}
          state: A == "b"
        deployment: test
        trigger: automatic
        oidc: true
        runs-on: [self.hosted, linux]
        runtime: {cloud: {version: '3', arch: arm}, self-hosted: {cpu: 2, memory: 16384, volumes: ['a:b']}}
        fail-fast: true
        output-variables: [V]
        concurrency-group: g
        auth: {system: {scopes: [s]}}
        artifacts:
          paths: [dist/**]
          download: [a]
          upload: [{name: u, paths: [x], type: scoped, depth: 2, ignore-paths: [y], capture-on: always}]
        script:
          - make
          - pipe: atlassian/x:1
            variables: {A: b, L: [c, d]}
        after-script: [echo done]
""")
    assert step.name == "All"
    assert step.image is not None
    assert (step.image.username, step.image.run_as_user) == ("$U", 1000)
    assert (step.size, step.max_time, step.oidc, step.fail_fast, step.concurrency_group) == ("4x", 30, True, True, "g")
    assert [str(name) for name in (*step.services, *step.caches, *step.runs_on, *step.output_variables, *step.scopes)] == [
        "db", "docker", "mine", "node", "self.hosted", "linux", "V", "s",
    ]  # fmt: skip
    assert step.clone is not None
    assert (step.clone.depth, step.clone.lfs, step.clone.enabled) == (0, True, None)
    assert step.runtime is not None
    assert step.runtime.cloud is not None
    assert step.runtime.cloud.version == "3"
    assert step.artifacts is not None
    assert step.artifacts.uploads[0].type == "scoped"
    assert isinstance(step.script[0], Command)
    pipe = step.script[1]
    assert isinstance(pipe, Pipe)
    assert [one.value for one in pipe.variables] == ["b", ("c", "d")]
    assert step.at["size"].line == 10


def test_groups_stages_final_and_custom_variables() -> None:
    document = load("""
pipelines:
  default:
    - parallel: {fail-fast: true, steps: [{step: {script: [a]}}, {step: {script: [b]}}]}
    - parallel: [{step: {script: [c]}}]
    - stage: {name: S, deployment: prod, trigger: manual, steps: [{step: {script: [d]}}]}
    - final: {script: [e]}
  custom:
    n:
      - variables: [{name: A, default: x, allowed-values: [x, y], description: d}]
      - step: {type: pipeline, custom: m, input-variables: {B: $A}}
    m: [{step: {script: [f]}}]
""")
    assert document.default is not None
    kinds = [type(item) for item in document.default.items]
    assert kinds == [Parallel, Parallel, Stage, Final]
    assert [item.fail_fast for item in document.default.items if isinstance(item, Parallel)] == [True, False]
    assert document.custom["n"].variables[0].allowed == ("x", "y")
    assert len(document.default.steps()) == 5


CASES = [
    ("size: 3x", 5, 'size: "3x" is not one of 1x, 2x'),
    ("size: 2", 5, "is not one of"),
    ("max-time: 0", 5, "too small"),
    ("max-time: '10'", 5, "where a whole number"),
    ("services: [a, b, c, d, e, f]", 5, "6 services listed, a step may have at most 5"),
    ("services: docker", 5, "where a list"),
    ("services: [dockr]", 5, 'no service named "dockr"'),
    ("caches: [nod]", 5, 'no cache named "nod" under definitions.caches (did you mean "node"?)'),
    ("caches: []", 5, "the list is empty"),
    ("trigger: auto", 5, "is not one of automatic, manual"),
    ("trigger: manual", 5, "the first step of a pipeline cannot be manual"),
    ("oidc: 'true'", 5, "where true or false belongs"),
    ("clone: {depth: 0}", 5, "too small"),
    ("clone: {depth: all}", 5, '"full" belongs'),
    ("image: {name: x, password: y}", 5, "password is given without username"),
    ("image: {username: x, password: y}", 5, "needs a name"),
    ("image: {name: x, aws: {access-key: k}}", 5, "needs access-key and secret-key, or oidc-role"),
    ("image: {name: x, username: a, password: b, aws: {oidc-role: r}}", 5, "exclude each other"),
    ("condition: {changesets: {includePaths: [a], excludePaths: [b]}}", 5, "exclude each other"),
    ("condition: {changesets: {includePath: [a]}}", 5, "includePath"),
    ("condition: {state: 'A = b'}", 5, "is not expected"),
    ("artifacts: {upload: [{paths: [a]}]}", 5, "name is missing"),
    ("artifacts: {upload: [{name: a, paths: [a], type: share}]}", 5, "is not one of shared"),
    ("runs-on: [a, b, c, d, e, f, g, h, i, j, k]", 5, "11 labels listed, at most 10"),
    (f"concurrency-group: {'g' * 51}", 5, "at most 50"),
    ("runtime: {cloud: {arch: arm64}}", 5, "is not one of x86, arm"),
    ("after-script: []", 5, "the list is empty"),
    ("name: 5", 5, "the number 5 where a text belongs"),
]


@pytest.mark.parametrize(("line", "number", "words"), CASES)
def test_what_a_step_is_refused_for(line: str, number: int, words: str) -> None:
    found = refusals(f"pipelines:\n  default:\n    - step:\n        script: [make]\n        {line}\n")
    assert any(place == number and words in message for place, message in found), found


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("image: x\n", 1, "pipelines is missing"),
        ("pipeline:\n  default: []\n", 1, "pipelines is missing"),
        ("pipelines:\n", 1, "pipelines: is empty"),
        ("pipelines: {}\n", 1, "has no keys"),
        ("pipelines:\n  - step: {script: [x]}\n", 2, "a list where a mapping"),
        ("pipelines:\n  default: []\n", 2, "the list is empty"),
        ("pipelines:\n  default:\n    step:\n      script: [x]\n", 3, "where a list of steps belongs"),
        ("pipelines:\n  default:\n    - step:\n      script: [x]\n", 4, '"script" stands beside "step"'),
        ("pipelines:\n  default:\n    - script: [x]\n", 3, '"script" is not an item'),
        ("pipelines:\n  default:\n    - stepp: {script: [x]}\n", 3, '"stepp" is not an item'),
        ("pipelines:\n  default:\n    - step:\n        name: x\n", 3, "script is missing"),
        ("pipelines:\n  default:\n    - step:\n        scripts: [x]\n", 4, "script is missing"),
        ("pipelines:\n  default:\n    - step:\n", 3, "script is missing"),
        ("pipelines:\n  default:\n    - step:\n        script: []\n", 4, "the list is empty"),
        ("pipelines:\n  default:\n    - step:\n        script:\n          - # nothing\n          - x\n", 5, "script item 1 is empty"),
        ("pipelines:\n  default:\n    - step:\n        script:\n          - echo a: b\n", 5, "neither a pipe nor an agent"),
        ("pipelines:\n  default:\n    - parallel:\n        - parallel:\n          - step: {script: [x]}\n", 4, "cannot stand inside parallel"),
        ("pipelines:\n  default:\n    - parallel: {fail-fast: true}\n", 3, "steps is missing"),
        ("pipelines:\n  default:\n    - final: {script: [x]}\n    - step: {script: [x]}\n", 3, "final is not the last item"),
        ("pipelines:\n  default:\n    - step: {script: [x]}\n    - final: {script: [x]}\n    - final: {script: [x]}\n", 5, "a second final step"),
        ("pipelines:\n  default:\n    - step: {script: [x]}\n    - final: {script: [x], deployment: d}\n", 4, "deployment is not allowed on the final step"),
        ("pipelines:\n  default:\n    - step: {script: [x]}\n    - final: {script: [x], trigger: manual}\n", 4, "always runs automatically"),
        ("pipelines:\n  default:\n    - variables: [{name: A}]\n    - step: {script: [x]}\n", 3, "custom pipelines only"),
        ("pipelines:\n  custom:\n    c:\n      - variables: [{name: A, default: z, allowed-values: [x]}]\n      - step: {script: [x]}\n", 4, "not among the allowed-values"),
        ("pipelines:\n  default:\n    - stage:\n        steps:\n          - step: {script: [x], condition: {state: 'A == 1'}}\n", 5, "put it on the stage"),
        ("pipelines:\n  default:\n    - step: {script: [x]}\n    - stage:\n        steps:\n          - step: {script: [x], trigger: manual}\n", 6, "manual step is not allowed inside a stage"),
        ("pipelines:\n  default:\n    - step: {type: pipeline, custom: gone}\n", 3, '"gone" is not defined'),
        ("pipelines:\n  default:\n    - step: {type: pipeline}\n", 3, "needs custom: NAME"),
        ("pipelines:\n  default:\n    - step: {type: pipeline, custom: c, size: 2x, image: i}\n  custom: {c: [{step: {script: [x]}}]}\n", 3, "cannot have size or image"),
        ("pipelines:\n  default:\n    - step: {type: pipeline, custom: c, input-variables: {1A: x}}\n  custom: {c: [{step: {script: [x]}}]}\n", 3, "is not a name"),
        ("pipelines:\n  default:\n    import: a:b\n", 3, "neither repo:tag-or-branch:pipeline"),
        ("pipelines:\n  default:\n    import: p@nowhere\n", 3, 'no import source named "nowhere"'),
        ("triggers:\n  repository-push:\n    - {condition: 'true', pipelines: [gone]}\n" + STEP, 3, 'no pipeline named "gone"'),
        ("triggers:\n  repository-push:\n    - {pipelines: [gone]}\n" + STEP, 3, "condition is missing"),
        ("definitions:\n  services:\n    redis: {memory: 512}\n" + STEP, 3, "needs an image"),
        ("definitions:\n  services:\n    redis: {image: r, memory: 64}\n" + STEP, 3, "too small; the least is 128"),
        ("definitions:\n  services:\n    redis: {image: r, variables: {A: 1}}\n" + STEP, 3, "the number 1 where a text belongs"),
        ("definitions:\n  services:\n    redis: {image: r, type: dind}\n" + STEP, 3, "is not one of docker"),
        ("definitions:\n  caches:\n    c: {key: {files: [a]}}\n" + STEP, 3, "path is missing"),
        ("definitions:\n  caches:\n    c: {path: x, key: {}}\n" + STEP, 3, "has no keys"),
        ("options: {max-time: -1}\n" + STEP, 1, "too small"),
        ("image: [a]\n" + STEP, 1, "where a text belongs"),
    ],
)  # fmt: skip
def test_what_a_file_is_refused_for(text: str, line: int, words: str) -> None:
    found = refusals(text)
    assert any(place == line and words in message for place, message in found), found


def test_memory_is_refused_in_the_words_of_the_service() -> None:
    text = "definitions:\n  services:\n    docker: {memory: 3073}\npipelines:\n  default:\n    - step:\n        services: [docker]\n        script: [x]\n"
    with pytest.raises(PipelineError) as caught:
        load(text)
    error = caught.value
    assert (
        "A step does not have the minimum resources needed to run (1024 MB). Services on the current step are consuming 3073 MB."
        in error.message
    )
    assert error.spans[0].line == 7
    assert "size: 2x" in (error.hint or "")
    assert load(text.replace("3073", "3072")).default is not None


def test_five_gigabytes_of_docker_need_size_2x() -> None:
    text = (
        "definitions: {services: {docker: {memory: 5120}}}\npipelines:\n  default:\n    - step: {SIZE, services: [docker], script: [x]}\n"
    )
    assert refusals(text.replace("SIZE", "size: 1x"))
    assert load(text.replace("SIZE", "size: 2x")).default is not None


def test_docker_of_the_options_counts() -> None:
    text = "options: {docker: true}\ndefinitions: {services: {db: {image: x, memory: 2500}}}\npipelines:\n  default:\n    - step: {services: [db], script: [x]}\n"
    assert "consuming 3524 MB" in refusals(text)[0][1]


def test_a_hundred_steps_and_one() -> None:
    text = "pipelines:\n  default:\n" + "    - step: {script: [x]}\n" * 101
    assert refusals(text) == [(103, "pipelines.default: 101 steps, a pipeline may have at most 100")]


def test_every_error_of_a_file_is_told_at_once() -> None:
    assert len(refusals("options: {size: 9x}\npipelines:\n  default:\n    - step: {script: [x], size: 3x, max-time: 0}\n")) == 3


def test_an_anchored_mistake_is_told_once() -> None:
    text = "definitions:\n  steps:\n    - step: &s {script: [x], size: 3x}\npipelines:\n  default: [{step: *s}, {step: *s}]\n"
    assert len(refusals(text)) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (STEP + "        artefacts: [a]\n", 5, 'did you mean "artifacts"?'),
        ("definitions:\n  docker: {memory: 1024}\n" + STEP, 2, "definitions.docker is not a known key"),
        ("develop: x\n" + STEP, 1, 'top-level key "develop"'),
        ("options: {runtime: {cloud: {version: 3}}}\n" + STEP, 1, "the number 3"),
        ("pipelines:\n  default:\n    - step:\n        script:\n          - true\n", 5, "line 5: script item 1 is the YAML boolean true"),
        ("pipelines:\n  pull-requests:\n    a: {destinations: {main: [{step: {script: [x]}}]}}\n", 3, "destinations"),
        (STEP + "        custom: x\n", 5, "not of type pipeline"),
    ],
)
def test_what_is_taken_with_a_warning(text: str, line: int, words: str) -> None:
    assert any(place == line and words in message for place, message in warnings(text)), warnings(text)


def test_yes_is_a_text_where_a_text_belongs() -> None:
    assert first_step("pipelines:\n  default:\n    - step:\n        name: no\n        script: [x]\n").name == "no"


def test_a_parked_anchor_is_no_warning() -> None:
    text = "stepdefinitions:\n  - step: &s {script: [x]}\nx-other: 1\npipelines:\n  default: [{step: *s}]\n"
    assert warnings(text) == []


def test_a_file_that_only_exports() -> None:
    text = "export: true\ndefinitions:\n  pipelines:\n    shared: [{step: {script: [x]}}]\n"
    assert load(text).definitions.pipelines["shared"].kind == "shared"
    assert "pipelines is missing" in refusals(text.replace("true", "false"))[0][1]


def test_import_sources_in_both_spellings() -> None:
    text = "definitions:\n  imports:\n    a: shared-pipelines.yml\n    b: {import: 'repo:main'}\n" + STEP
    sources = load(text).definitions.imports
    assert [(source.location, source.local) for source in sources.values()] == [("shared-pipelines.yml", True), ("repo:main", False)]


def test_a_refused_file_is_a_lamina_error_with_exit_code_2() -> None:
    with pytest.raises(LaminaError) as caught:
        load("image: x\n")
    assert caught.value.exit_code == 2
    assert caught.value.code == "pipeline/invalid"
