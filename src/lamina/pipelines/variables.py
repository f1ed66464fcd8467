"""Variables of a run: levels, Bitbucket's own ones, `$NAME` in fields, and which values must not be shown."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from lamina.pipelines.errors import StartError
from lamina.pipelines.model import CustomVariable

Level = Literal["default", "workspace", "repository", "deployment", "pipeline", "output"]
# Weakest first. Output variables of earlier steps come last: nothing else can have meant them.
LEVELS: tuple[Level, ...] = ("default", "workspace", "repository", "deployment", "pipeline", "output")
_REFERENCE = re.compile(r"\$(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})")


class Variable(msgspec.Struct, frozen=True):
    """`secured`: its value is masked in everything that is shown. `environment` limits one of level deployment."""

    name: str
    value: str
    level: Level = "repository"
    secured: bool = False
    environment: str = ""

    def __repr__(self) -> str:
        shown = "…" if self.secured else repr(self.value)
        return f"Variable({self.name}={shown}, {self.level})"


class Variables(msgspec.Struct, frozen=True):
    """What a step sees: one value for each name, with the level that won."""

    winners: tuple[Variable, ...] = ()

    def values(self) -> dict[str, str]:
        return {one.name: one.value for one in self.winners}

    def secrets(self) -> tuple[tuple[str, str], ...]:
        """Names and values for a Masker."""
        return tuple((one.name, one.value) for one in self.winners if one.secured)

    def get(self, name: str) -> Variable | None:
        return next((one for one in self.winners if one.name == name), None)


def layer(variables: Iterable[Variable], environment: str = "") -> Variables:
    """One value for each name: the stronger level wins, within a level the later one; a deployment's variables count in their environment only."""
    found: dict[str, Variable] = {}
    for one in variables:
        if one.level == "deployment" and one.environment != environment:
            continue
        before = found.get(one.name)
        if before is None or LEVELS.index(one.level) >= LEVELS.index(before.level):
            found[one.name] = one
    return Variables(tuple(found.values()))


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` as Bitbucket expands them in images, services and input variables; an unset one becomes empty."""
    return _REFERENCE.sub(lambda match: values.get(match["name"] or match["braced"], ""), text)


def references(text: str) -> tuple[str, ...]:
    """The names that `expand` looks up."""
    return tuple(dict.fromkeys(match["name"] or match["braced"] for match in _REFERENCE.finditer(text)))


def answer(declared: tuple[CustomVariable, ...], given: Mapping[str, str]) -> tuple[Variable, ...]:
    """The variables of a custom pipeline's run. Raises StartError for a value that is not allowed or is missing. Undeclared ones pass: the API takes them too."""
    found = [Variable(name, value, "pipeline") for name, value in given.items()]
    for one in declared:
        if one.name in given:
            if one.allowed and given[one.name] not in one.allowed:
                raise StartError(
                    f'{one.name}="{given[one.name]}" is not allowed', hint=f"allowed are {', '.join(one.allowed)}", spans=(one.span,)
                )
        elif one.default is not None:
            found.append(Variable(one.name, one.default, "pipeline"))
        elif one.allowed:
            raise StartError(
                f"the variable {one.name} needs a value", hint=f"--var {one.name}=… with one of {', '.join(one.allowed)}", spans=(one.span,)
            )
    return tuple(found)


class Facts(msgspec.Struct, frozen=True):
    """What the repository and the run are, for Bitbucket's own variables. Empty texts are left out of the environment."""

    build_number: int = 1
    clone_dir: str = "/opt/atlassian/pipelines/agent/build"
    commit: str = ""
    workspace: str = ""
    slug: str = ""
    repository_uuid: str = ""
    owner_uuid: str = ""
    project_key: str = ""
    project_uuid: str = ""
    private: bool = True
    http_origin: str = ""
    ssh_origin: str = ""
    pipeline_uuid: str = ""
    branch: str = ""
    tag: str = ""
    pull_request: str = ""
    destination: str = ""
    destination_commit: str = ""


def stable_uuid(what: str) -> str:
    """In Bitbucket's braces; the same for the same thing on every machine, and none of Bitbucket's."""
    return "{" + str(uuid.uuid5(uuid.NAMESPACE_URL, f"lamina:{what}")) + "}"


def own(facts: Facts) -> tuple[Variable, ...]:
    """The variables that every step of the run gets from Bitbucket."""
    full = f"{facts.workspace}/{facts.slug}" if facts.workspace and facts.slug else ""
    values = {
        "CI": "true",
        "BITBUCKET_BUILD_NUMBER": str(facts.build_number),
        "BITBUCKET_CLONE_DIR": facts.clone_dir,
        "BUILD_DIR": facts.clone_dir,
        "BITBUCKET_COMMIT": facts.commit,
        "BITBUCKET_WORKSPACE": facts.workspace,
        "BITBUCKET_REPO_OWNER": facts.workspace,
        "BITBUCKET_REPO_SLUG": facts.slug,
        "BITBUCKET_REPO_UUID": facts.repository_uuid,
        "BITBUCKET_REPO_FULL_NAME": full,
        "BITBUCKET_REPO_IS_PRIVATE": "true" if facts.private else "false",
        "BITBUCKET_REPO_OWNER_UUID": facts.owner_uuid,
        "BITBUCKET_STEP_TRIGGERER_UUID": facts.owner_uuid,
        "BITBUCKET_PROJECT_KEY": facts.project_key,
        "BITBUCKET_PROJECT_UUID": facts.project_uuid,
        "BITBUCKET_GIT_HTTP_ORIGIN": facts.http_origin,
        "BITBUCKET_GIT_SSH_ORIGIN": facts.ssh_origin,
        "BITBUCKET_PIPELINE_UUID": facts.pipeline_uuid,
        "BITBUCKET_BRANCH": facts.branch,
        "BITBUCKET_TAG": facts.tag,
        "BITBUCKET_PR_ID": facts.pull_request,
        "BITBUCKET_PR_DESTINATION_BRANCH": facts.destination,
        "BITBUCKET_PR_DESTINATION_COMMIT": facts.destination_commit,
    }
    return tuple(Variable(name, value, "default") for name, value in values.items() if value)


def own_of_step(
    *, step_uuid: str = "", run_number: int = 1, parallel: tuple[int, int] | None = None, environment: str = "", variables_path: str = ""
) -> tuple[Variable, ...]:
    """The variables that differ from step to step. `parallel` is (index from 0, count)."""
    values = {
        "BITBUCKET_STEP_UUID": step_uuid,
        "BITBUCKET_STEP_RUN_NUMBER": str(run_number),
        "BITBUCKET_PARALLEL_STEP": str(parallel[0]) if parallel else "",
        "BITBUCKET_PARALLEL_STEP_COUNT": str(parallel[1]) if parallel else "",
        "BITBUCKET_DEPLOYMENT_ENVIRONMENT": environment,
        "BITBUCKET_DEPLOYMENT_ENVIRONMENT_UUID": stable_uuid(f"environment {environment}") if environment else "",
        "BITBUCKET_PIPELINES_VARIABLES_PATH": variables_path,
    }
    return tuple(Variable(name, value, "default") for name, value in values.items() if value)
