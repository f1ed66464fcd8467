from __future__ import annotations

import pytest

from lamina.pipelines.choose import Start
from lamina.pipelines.errors import NotHere, StartError
from lamina.pipelines.expressions import ExpressionError
from lamina.pipelines.load import load
from lamina.pipelines.plan import Plan, PlannedGroup, PlannedStage, PlannedStep, Request, plan
from lamina.pipelines.variables import Facts, Variable

MAIN = Request(Start("branch", "main"))


def planned(text: str, request: Request = MAIN) -> Plan:
    return plan(load(text), request)


def only(text: str, request: Request = MAIN) -> PlannedStep:
    (step,) = planned(text, request).steps()
    return step


def test_defaults_of_a_step() -> None:
    step = only("pipelines: {default: [{step: {script: [x]}}]}")
    assert (step.image.name, step.size, step.minutes, step.memory.build) == ("atlassian/default-image:latest", "1x", 120, 4096)
    assert (step.clone.enabled, step.clone.depth, step.clone.lfs, step.docker, step.name) == (True, 50, False, False, "Step 1")
    assert step.decision.verdict == "run"


def test_options_and_globals_lie_below_the_step() -> None:
    text = """
image: python:3
clone: {depth: full, lfs: true}
options: {size: 2x, max-time: 7, docker: true, runs-on: linux}
pipelines:
  default:
    - step: {script: [x], clone: {depth: 3}}
    - step: {script: [x], image: other, size: 4x, max-time: 9, runs-on: [a, b]}
"""
    first, second = planned(text).steps()
    assert (first.image.name, first.size, first.minutes, first.clone.depth, first.clone.lfs) == ("python:3", "2x", 7, 3, True)
    assert (second.image.name, second.size, second.minutes, second.clone.depth) == ("other", "4x", 9, 0)
    assert first.docker
    assert [str(label) for label in (*first.runs_on, *second.runs_on)] == ["linux", "a", "b"]


def test_groups_have_indexes_and_fail_fast() -> None:
    text = "pipelines: {default: [{parallel: {fail-fast: true, steps: [{step: {script: [a]}}, {step: {script: [b], fail-fast: false}}]}}]}"
    (group,) = planned(text).items
    assert isinstance(group, PlannedGroup)
    assert [step.parallel for step in group.steps] == [(0, 2), (1, 2)]
    assert [step.fail_fast for step in group.steps] == [True, False]
    assert group.steps[1].variables.values()["BITBUCKET_PARALLEL_STEP"] == "1"


def test_a_stage_gives_its_environment_and_condition_to_its_steps() -> None:
    text = """
pipelines:
  default:
    - stage:
        name: Ship
        deployment: prod
        condition: {changesets: {includePaths: [src/**]}}
        steps: [{step: {script: [a]}}, {step: {script: [b]}}]
"""
    variables = (Variable("HOST", "h", "deployment", environment="prod"), Variable("HOST", "t", "deployment", environment="test"))
    skipped = planned(text, Request(Start("branch", "main"), variables=variables, changed=("docs/a",)))
    (stage,) = skipped.items
    assert isinstance(stage, PlannedStage)
    assert stage.decision.verdict == "skip"
    assert [step.decision.verdict for step in skipped.steps()] == ["skip", "skip"]
    run = planned(text, Request(Start("branch", "main"), variables=variables, changed=("src/a",)))
    assert [step.variables.values()["HOST"] for step in run.steps()] == ["h", "h"]
    assert {step.environment for step in run.steps()} == {"prod"}


def test_an_expression_waits_for_output_variables_of_earlier_steps_only() -> None:
    text = """
pipelines:
  default:
    - step: {script: [a], condition: {state: V == "1"}, output-variables: [V]}
    - step: {script: [b], condition: {state: V == "1"}}
"""
    assert [step.decision.verdict for step in planned(text).steps()] == ["skip", "later"]


def test_an_expression_without_a_boolean_says_where() -> None:
    with pytest.raises(ExpressionError) as caught:
        planned(
            "pipelines:\n  default:\n    - step: {script: [a], condition: {state: BITBUCKET_BRANCH}}\n",
            Request(Start("branch", "m"), Facts(branch="m")),
        )
    assert caught.value.spans[0].line == 3


def test_a_child_pipeline_is_planned_with_its_inputs() -> None:
    text = """
pipelines:
  default:
    - step: {script: [x]}
    - step: {name: Go, type: pipeline, custom: child, input-variables: {TARGET: $BITBUCKET_BRANCH}}
  custom:
    child:
      - variables: [{name: TARGET}, {name: MODE, default: slow}]
      - step: {script: [y]}
"""
    made = planned(text, Request(Start("branch", "main"), Facts(branch="main")))
    child = made.steps()[1].child
    assert child is not None
    (inner,) = child.steps()
    assert inner.variables.values()["TARGET"] == "main"
    assert inner.variables.values()["MODE"] == "slow"


def test_children_without_end_are_refused() -> None:
    text = "pipelines:\n  custom:\n    a: [{step: {type: pipeline, custom: b}}]\n    b: [{step: {type: pipeline, custom: a}}]\n"
    with pytest.raises(StartError, match="start each other without end"):
        planned(text, Request(Start("custom", "a")))


def test_children_that_multiply_are_bounded() -> None:
    levels = [f"    c{n}: [{', '.join([f'{{step: {{type: pipeline, custom: c{n + 1}}}}}'] * 8)}]" for n in range(6)]
    text = "pipelines:\n  custom:\n" + "\n".join(levels) + "\n    c6: [{step: {script: [x]}}]\n"
    with pytest.raises(StartError, match="more than 1000 steps"):
        planned(text, Request(Start("custom", "c0")))


def test_answers_of_a_custom_pipeline() -> None:
    text = "pipelines: {custom: {n: [{variables: [{name: A, allowed-values: [x, y]}]}, {step: {script: [z]}}]}}"
    assert only(text, Request(Start("custom", "n"), answers={"A": "x"})).variables.values()["A"] == "x"
    with pytest.raises(StartError):
        planned(text, Request(Start("custom", "n"), answers={"A": "z"}))


def test_fields_of_images_and_services_are_expanded() -> None:
    text = """
image: {name: 'r.example/$TEAM:1', username: $U, password: $P}
definitions: {services: {db: {image: 'pg:$V', variables: {PW: '${P}'}}}}
pipelines: {default: [{step: {script: [x], services: [db]}}]}
"""
    variables = tuple(Variable(name, value) for name, value in {"TEAM": "t", "U": "u", "P": "p", "V": "16"}.items())
    step = only(text, Request(Start("branch", "main"), variables=variables))
    assert (step.image.name, step.image.username, step.image.password) == ("r.example/t:1", "u", "p")
    (service,) = step.services
    assert service.image is not None
    assert (service.image.name, service.variables, service.memory) == ("pg:16", (("PW", "p"),), 1024)


def test_predefined_caches_have_their_paths() -> None:
    step = only(
        "definitions: {caches: {gradle: {path: g, key: {files: [a]}}}}\npipelines: {default: [{step: {script: [x], caches: [node, docker, gradle]}}]}"
    )
    assert [(cache.name, cache.path, len(cache.key_files)) for cache in step.caches] == [
        ("node", "node_modules", 0),
        ("docker", "", 0),
        ("gradle", "g", 1),
    ]


def test_nothing_starts_with_a_reason() -> None:
    made = planned("pipelines: {tags: {v*: [{step: {script: [x]}}]}}")
    assert made.pipeline is None
    assert made.items == ()
    assert made.reason


def test_what_cannot_run_here_is_said_with_its_line_before_anything_starts() -> None:
    text = """
definitions:
  agents: {fixer: {prompt: p}}
pipelines:
  default:
    - step:
        script:
          - agent: fixer
"""
    made = planned(text)
    (problem,) = made.problems
    assert (problem.code, problem.span.line if problem.span else 0) == ("pipeline/agent", 8)
    with pytest.raises(NotHere) as caught:
        made.must_run_here()
    assert caught.value.exit_code == 69


def test_a_skipped_step_has_no_problems() -> None:
    text = "pipelines: {default: [{step: {script: [x], oidc: true, condition: {state: 'false'}}}]}"
    assert planned(text).problems == ()


@pytest.mark.parametrize(
    ("step", "code", "severity"),
    [
        ("deployment: prod", "deployment-variables", "warning"),
        ("oidc: true", "oidc", "warning"),
        ("runs-on: [self.hosted, windows]", "other-system", "error"),
        ("runtime: {cloud: {platform: windows}}", "other-system", "error"),
        ("runtime: {cloud: {arch: arm}}", "other-architecture", "warning"),
        ("image: {name: x, aws: {oidc-role: r}}", "oidc-image", "error"),
        ("image: {name: x, username: $U, password: $P}", "image-credentials", "warning"),
        ("runtime: {self-hosted: {volumes: ['a:b']}}", "volumes", "warning"),
    ],
)
def test_what_is_not_as_on_bitbucket(step: str, code: str, severity: str) -> None:
    (problem,) = planned(f"pipelines:\n  default:\n    - step:\n        script: [x]\n        {step}\n").problems
    assert (problem.code, problem.severity) == (f"pipeline/{code}", severity)
    assert problem.span is not None
    assert problem.span.line == 5


def test_given_deployment_variables_leave_nothing_to_say() -> None:
    request = Request(Start("branch", "main"), variables=(Variable("A", "b", "deployment", environment="prod"),))
    assert planned("pipelines: {default: [{step: {script: [x], deployment: prod}}]}", request).problems == ()


def test_a_shared_import_needs_bitbucket() -> None:
    made = planned("pipelines:\n  default:\n    import: repo:main:build\n")
    (problem,) = made.problems
    assert (problem.severity, problem.code) == ("error", "pipeline/shared-import")
    assert problem.span is not None
    assert problem.span.line == 3
