"""What a local run cannot do as Bitbucket does, said before anything starts. Errors forbid the run, warnings do not."""

from __future__ import annotations

from collections.abc import Iterator

from lamina.diagnostics.diagnostic import Diagnostic, Severity
from lamina.diagnostics.span import Span
from lamina.pipelines.model import Agent, Image, Pipeline, Runtime, Step, Text
from lamina.pipelines.variables import Variable

_FOREIGN = {"windows": "Windows", "macos": "macOS"}


def shared_import(pipeline: Pipeline, reference: str) -> Diagnostic:
    """An import from another repository lies in Bitbucket."""
    span = pipeline.span if pipeline.imported is None else pipeline.imported.span
    message = f"{pipeline.path}: imports {reference} from another repository, which only Bitbucket can read"
    return Diagnostic(
        "error", "pipeline/shared-import", message, span, "check that repository out and import its file by a path: `definitions.imports`"
    )


def problems(
    step: Step, image: Image, runtime: Runtime | None, runs_on: tuple[Text, ...], environment: str, given: tuple[Variable, ...]
) -> tuple[Diagnostic, ...]:
    """Of one step that would run. `image` has its variables expanded."""
    return tuple(_problems(step, image, runtime, runs_on, environment, given))


def _problems(
    step: Step, image: Image, runtime: Runtime | None, runs_on: tuple[Text, ...], environment: str, given: tuple[Variable, ...]
) -> Iterator[Diagnostic]:
    def told(severity: Severity, code: str, message: str, span: Span, hint: str | None = None) -> Diagnostic:
        return Diagnostic(severity, f"pipeline/{code}", f"{step.path}: {message}", span, hint)

    for item in (*step.script, *step.after_script):
        if isinstance(item, Agent):
            yield told(
                "error",
                "agent",
                f'the agent "{item.name}" runs at Atlassian only',
                item.span,
                "leave the step out with --step or a condition",
            )
    for label in runs_on:
        system = _FOREIGN.get(label.value.lower())
        if system:
            yield told("error", "other-system", f"runs on {system}; here only Linux steps run", label.span)
    if runtime is not None and runtime.cloud is not None:
        if runtime.cloud.platform == "windows":
            yield told("error", "other-system", "runs on Windows; here only Linux steps run", runtime.span)
        if runtime.cloud.arch == "arm":
            yield told("warning", "other-architecture", "wants an arm machine; it runs on this machine's architecture", runtime.span)
    if runtime is not None and runtime.self_hosted is not None and runtime.self_hosted.volumes:
        place = runtime.self_hosted.volumes[0].span
        yield told("warning", "volumes", "volumes of self-hosted runners are not mounted", place)
    if step.type == "pipeline":
        return
    if image.aws is not None and image.aws.oidc_role is not None:
        yield told("error", "oidc-image", f"the image {image.name} is fetched with an OIDC role, which only Bitbucket can take", image.span)
    elif image.aws is not None:
        message = f"the access keys of {image.name} are not used: this machine's own logins are"
        yield told("warning", "image-aws", message, image.span, "log in first: aws ecr get-login-password | lamina login")
    if step.oidc:
        place = step.at.get("oidc", step.span)
        yield told("warning", "oidc", "oidc: there is no issuer here; BITBUCKET_STEP_OIDC_TOKEN is not set", place)
    if environment and not any(one.level == "deployment" and one.environment == environment for one in given):
        named = step.deployment or step.environment
        place = step.span if named is None else named.span
        hint = f"give them with --deployment-var {environment}:NAME=value or a file"
        yield told(
            "warning",
            "deployment-variables",
            f'the variables of the deployment "{environment}" lie in Bitbucket and were not given',
            place,
            hint,
        )
    if image.username is not None and (not image.username or not image.password):
        yield told("warning", "image-credentials", f"the variables with the credentials of {image.name} were not given", image.span)
