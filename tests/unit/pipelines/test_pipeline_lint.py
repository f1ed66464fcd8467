from __future__ import annotations

import pytest

from lamina.pipelines.lint import lint, warnings
from lamina.pipelines.load import load

HEAD = "image: alpine:3.20\n"
STEPS = "[{step: {script: [x]}}]"


def findings(text: str) -> list[tuple[str, str, int, str]]:
    return [(item.severity, item.code.removeprefix("pipeline/"), item.span.line if item.span else 0, item.message) for item in lint(text)]


def codes(text: str) -> set[tuple[str, int]]:
    return {(code, line) for _, code, line, _ in findings(text)}


def step(keys: str) -> str:
    return f"{HEAD}pipelines:\n  default:\n    - step:\n        script: [make]\n{keys}"


def test_a_clean_file_has_no_findings() -> None:
    assert findings(step("        artifacts: ['dist/**']\n        caches: [node]\n")) == []


@pytest.mark.parametrize(
    ("keys", "code", "line"),
    [
        ("        artifacts: [../x/**]\n", "artifact-outside", 6),
        ("        artifacts: [/tmp/x]\n", "artifact-outside", 6),
        ("        artifacts: [./x/**]\n", "artifact-outside", 6),
        ("        artifacts: [dist/]\n", "artifact-folder", 6),
        ("        artifacts: [dist]\n", "artifact-folder", 6),
        ("        artifacts: {upload: [{name: a, paths: [a/../b]}]}\n", "artifact-outside", 6),
        ("        artifacts: ['node_modules/**']\n        caches: [node]\n", "cache-is-artifact", 6),
        ("        artifacts: {download: [gone]}\n", "unknown-artifact", 6),
        ("        condition: {changesets: {includePaths: [./src/**]}}\n", "changed-path", 6),
        ("        fail-fast: true\n", "no-effect", 6),
        ("        caches: [node, node]\n", "listed-twice", 6),
        ("        caches: [docker]\n", "docker-cache-without-docker", 6),
        ("        caches: [docker]\n        services: [docker]\n        runtime: {cloud: {version: '3'}}\n", "docker-cache-on-v3", 6),
        ("        clone: {skip-ssl-verify: true}\n", "no-effect", 6),
        ("        artefacts: [a]\n", "misspelt-key", 6),
        ("        colour: red\n", "unknown-key", 6),
    ],
)
def test_rules_about_a_step(keys: str, code: str, line: int) -> None:
    assert (code, line) in codes(step(keys))


def test_a_misspelt_key_is_an_error_to_lint() -> None:
    assert [severity for severity, code, _, _ in findings(step("        artefacts: [a]\n")) if code == "misspelt-key"] == ["error"]


def group(*steps: str) -> str:
    return (
        HEAD
        + "pipelines:\n  default:\n    - parallel:\n"
        + "".join(f"      - step: {{{one}, script: [docker build .]}}\n" for one in steps)
    )


DOCKER = "services: [docker], caches: [docker]"


def test_parallel_steps_that_share_the_docker_cache() -> None:
    (found,) = [item for item in findings(group(DOCKER, DOCKER, "services: [docker]")) if item[1] == "docker-cache-in-parallel"]
    assert found[0] == "warning"
    assert found[3].startswith('pipelines.default[0]: 2 parallel steps share the predefined "docker" cache')
    assert 'Cache "docker: docker.tar": Upload failed' in found[3]


def test_one_docker_cache_in_a_group_is_no_collision() -> None:
    assert findings(group(DOCKER, "services: [docker]")) == []


def test_a_docker_cache_of_ones_own_is_no_collision() -> None:
    text = group(DOCKER, DOCKER) + "definitions: {caches: {docker: {path: d, key: {files: [Dockerfile]}}}}\n"
    assert "docker-cache-in-parallel" not in {code for code, _ in codes(text)}


def test_buildkit_does_not_use_the_docker_cache() -> None:
    text = step("        services: [docker]\n        caches: [docker]\n").replace("[make]", "[export DOCKER_BUILDKIT=1, docker build .]")
    assert ("docker-cache-with-buildkit", 7) in codes(text)


@pytest.mark.parametrize(
    ("cache", "command", "words"),
    [
        ("imgs", "docker save $(docker images -aq) -o imgs/c.tar", "no key.files, so the first docker save is kept up to 7 days and later layers are never saved; docker save by image id also drops"),
        ("imgs", "docker save app:1 -o imgs/c.tar", "no key.files"),
        ("{path: imgs, key: {files: [Dockerfile]}}", "docker image save $(docker image ls -q) > imgs/c.tar", "docker save by image id drops the tags"),
    ],
)  # fmt: skip
def test_images_saved_by_hand(cache: str, command: str, words: str) -> None:
    text = f"{HEAD}definitions:\n  caches:\n    mine: {cache}\npipelines:\n  default:\n    - step: {{caches: [mine], services: [docker], script: ['{command}']}}\n"
    (found,) = findings(text)
    assert found[:3] == ("warning", "saved-images", 4)
    assert words in found[3]


def test_images_saved_by_name_under_a_key_are_fine() -> None:
    text = f"{HEAD}definitions: {{caches: {{mine: {{path: imgs, key: {{files: [Dockerfile]}}}}}}}}\npipelines: {{default: [{{step: {{caches: [mine], services: [docker], script: [docker save app -o imgs/c]}}}}]}}\n"
    assert findings(text) == []


def test_docker_without_the_service() -> None:
    text = step("").replace("[make]", "[cd x && docker build .]")
    assert ("docker-without-service", 5) in codes(text)
    assert codes(step("        services: [docker]\n").replace("[make]", "[docker build .]")) == set()
    assert codes(step("").replace("[make]", "[echo docker build]")) == set()
    assert codes("options: {docker: true}\n" + step("").replace("[make]", "[docker build .]")) == set()


@pytest.mark.parametrize(
    ("branches", "line"),
    [
        (f"    '**': {STEPS}\n", 3),
        (f"    a: {STEPS}\n    b: {STEPS}\n    '{{a,b}}': {STEPS}\n", 7),
        (f"    refs/heads/main: {STEPS}\n", 5),
        (f"    '{{a,b}}*': {STEPS}\n    '{{b,a}}*': {STEPS}\n", 6),
    ],
)
def test_pipelines_that_no_push_reaches(branches: str, line: int) -> None:
    text = f"{HEAD}pipelines:\n  default: {STEPS}\n  branches:\n{branches}"
    assert ("unreachable", line) in codes(text)


def test_a_star_leaves_branches_with_folders_to_the_default() -> None:
    assert findings(f"{HEAD}pipelines:\n  default: {STEPS}\n  branches:\n    '*': {STEPS}\n") == []


def test_unused_definitions() -> None:
    text = f"{HEAD}definitions:\n  services:\n    db: {{image: pg}}\n  caches:\n    c: x\n  pipelines:\n    p: {STEPS}\n  steps:\n    - step: &never {{script: [x]}}\npipelines: {{default: {STEPS}}}\n"
    assert codes(text) == {("unused", 4), ("unused", 6), ("unused", 8), ("unused", 10)}
    assert [severity for severity, *_ in findings(text)] == ["warning", "warning", "warning", "info"]


def test_custom_pipelines_that_start_themselves() -> None:
    text = (
        HEAD
        + "pipelines:\n  custom:\n    a: [{step: {type: pipeline, custom: b}}]\n    b: [{step: {type: pipeline, custom: a}}]\n    c: [{step: {type: pipeline, custom: c}}]\n"
    )
    assert [(line, message.partition(": ")[2]) for _, code, line, message in findings(text) if code == "child-cycle"] == [
        (5, "the pipelines start each other without end: a -> b -> a"),
        (6, "the pipelines start each other without end: c -> c"),
    ]


def test_long_rows_of_children_are_no_circle() -> None:
    rows = "".join(
        f"    c{n}: [{{step: {{type: pipeline, custom: c{n + 1}}}}}, {{step: {{type: pipeline, custom: c{n + 1}}}}}]\n" for n in range(1500)
    )
    assert codes(f"{HEAD}pipelines:\n  custom:\n{rows}    c1500: {STEPS}\n") == set()


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{n}: &a{n} [*a{n - 1}]\n" if n else "k0: &a0 x\n" for n in range(60)),
        step("".join(f"        scrpt{n}: x\n" for n in range(8000))),
        "pipelines:\n  branches:\n" + "".join(f"    '{'*' * (n % 2 + 1)}{{a,b}}{n}': {STEPS}\n" for n in range(2000)),
        step("        caches: [" + ", ".join(["node"] * 20000) + "]\n"),
        "definitions:\n  services:\n" + "".join(f"    {'s' * 60}{n}: {{image: x}}\n" for n in range(3000)) + "pipelines:\n  default:\n" + f"    - step: {{script: [x], services: [{'t' * 60}]}}\n" * 300,
        "".join(f"root{n}: &r{n} x\n" for n in range(9000)) + f"pipelines: {{default: {STEPS}}}\n",
    ],
)  # fmt: skip
def test_hostile_files_end_in_findings(text: str) -> None:
    assert findings(text)


def test_cache_paths() -> None:
    text = f"{HEAD}definitions:\n  caches:\n    a: ../x\n    b: '~'\n    c: {{path: y, key: {{files: [/etc/passwd]}}}}\npipelines: {{default: [{{step: {{caches: [a, b, c], script: [x]}}}}]}}\n"
    assert codes(text) == {("cache-path", 4), ("cache-path", 5), ("cache-key-file", 6)}


def test_no_image() -> None:
    assert codes(f"pipelines: {{default: {STEPS}}}\n") == {("default-image", 1)}


def test_manual_steps_in_a_group() -> None:
    text = f"{HEAD}pipelines: {{default: [{{step: {{script: [x]}}}}, {{parallel: [{{step: {{script: [x], trigger: manual}}}}]}}]}}\n"
    assert ("manual-in-parallel", 2) in codes(text)


def test_what_a_run_says_leaves_style_out() -> None:
    text = step("        artifacts: [../x]\n        colour: red\n") + "definitions: {caches: {c: x}}\n"
    assert [item.code for item in warnings(load(text))] == ["pipeline/artifact-outside", "pipeline/unknown-key"]


def test_text_that_is_no_yaml_is_a_finding() -> None:
    assert [(severity, line) for severity, _, line, _ in findings("a: [\n")] == [("error", 2)]


def test_findings_are_in_the_order_of_the_text() -> None:
    lines = [line for _, _, line, _ in findings(step("        artifacts: [../a, ./b]\n        fail-fast: true\n") + "develop: x\n")]
    assert lines == sorted(lines)
