"""Every key of Atlassian's published schema of bitbucket-pipelines.yml as frozen values, with the place of each.

`at` of a struct maps a key that was written to the place of its value. None means "not written"; defaults are applied by the plan, where
options and definitions are known. Text is as written, without `$NAME` expanded.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.span import Source, Span
from lamina.pipelines.tree import Anchor

Places = dict[str, Span]
Manual = Literal["automatic", "manual"]
Kind = Literal["default", "branches", "tags", "pull-requests", "custom", "bookmarks", "shared"]


class Text(msgspec.Struct, frozen=True):
    """A text of a list or a name, with its place."""

    value: str
    span: Span

    def __str__(self) -> str:
        return self.value


class Assignment(msgspec.Struct, frozen=True):
    """`NAME: value`; a pipe's variable may be a list."""

    name: str
    value: str | tuple[str, ...]
    span: Span


class AwsAccess(msgspec.Struct, frozen=True):
    """Either both keys or the role."""

    access_key: str | None = None
    secret_key: str | None = None
    oidc_role: str | None = None


class Image(msgspec.Struct, frozen=True):
    name: str
    span: Span
    run_as_user: int | None = None
    username: str | None = None
    password: str | None = None
    email: str | None = None
    aws: AwsAccess | None = None


class Service(msgspec.Struct, frozen=True):
    """`memory` in MB; None where the file gives none (1024). `docker`: of `type: docker`, or the name says it."""

    name: str
    span: Span
    image: Image | None = None
    memory: int | None = None
    docker: bool = False
    variables: tuple[Assignment, ...] = ()
    at: Places = {}


class Cache(msgspec.Struct, frozen=True):
    """`key_files` is empty for a cache without a key."""

    name: str
    span: Span
    path: str
    key_files: tuple[Text, ...] = ()


class Clone(msgspec.Struct, frozen=True):
    """None = not written: a step's keys lie over the global ones one by one. A depth of 0 stands for `full`."""

    enabled: bool | None = None
    depth: int | None = None
    lfs: bool | None = None
    skip_ssl_verify: bool | None = None
    at: Places = {}


class CloudRuntime(msgspec.Struct, frozen=True):
    version: str | None = None
    arch: str | None = None
    platform: str | None = None
    instance_type: str | None = None
    atlassian_ip_ranges: bool | None = None


class SelfHostedRuntime(msgspec.Struct, frozen=True):
    """`memory` in MB. `storage` is "aws" or "gcp" where one is configured; it means nothing to a local run."""

    cpu: int | None = None
    memory: int | None = None
    volumes: tuple[Text, ...] = ()
    storage: str | None = None


class Runtime(msgspec.Struct, frozen=True):
    span: Span
    cloud: CloudRuntime | None = None
    self_hosted: SelfHostedRuntime | None = None


class Options(msgspec.Struct, frozen=True):
    docker: bool = False
    max_time: int | None = None
    size: str | None = None
    runs_on: tuple[Text, ...] = ()
    runtime: Runtime | None = None
    at: Places = {}


class Command(msgspec.Struct, frozen=True):
    """One item of a script. A block text is one item of several lines."""

    text: str
    span: Span


class Pipe(msgspec.Struct, frozen=True):
    """`account/repo:version` or `docker://image`."""

    name: str
    span: Span
    variables: tuple[Assignment, ...] = ()


class Agent(msgspec.Struct, frozen=True):
    """An agentic task; never run here."""

    name: str
    span: Span
    prompt: str | None = None
    provider: str | None = None


ScriptItem = Command | Pipe | Agent


class Upload(msgspec.Struct, frozen=True):
    name: str
    span: Span
    paths: tuple[Text, ...]
    type: Literal["shared", "scoped", "test-reports"] = "shared"
    ignore_paths: tuple[Text, ...] = ()
    depth: int | None = None
    capture_on: Literal["success", "failed", "always"] = "success"


class Artifacts(msgspec.Struct, frozen=True):
    """`download` is True for all, False for none, else names. `upload_names` is the 2026 form of child pipelines."""

    span: Span
    paths: tuple[Text, ...] = ()
    download: bool | tuple[Text, ...] = True
    uploads: tuple[Upload, ...] = ()
    upload_names: tuple[Text, ...] = ()


class Condition(msgspec.Struct, frozen=True):
    """At most one of `include` and `exclude` is not empty."""

    span: Span
    include: tuple[Text, ...] = ()
    exclude: tuple[Text, ...] = ()
    state: Text | None = None


class Step(msgspec.Struct, frozen=True):
    """`span` is the word `step` (or `final`); `path` is where the step stands, for messages."""

    span: Span
    path: str
    name: str | None = None
    script: tuple[ScriptItem, ...] = ()
    after_script: tuple[ScriptItem, ...] = ()
    image: Image | None = None
    size: str | None = None
    max_time: int | None = None
    services: tuple[Text, ...] = ()
    caches: tuple[Text, ...] = ()
    artifacts: Artifacts | None = None
    clone: Clone | None = None
    condition: Condition | None = None
    deployment: Text | None = None
    environment: Text | None = None
    trigger: Manual = "automatic"
    oidc: bool = False
    runs_on: tuple[Text, ...] = ()
    runtime: Runtime | None = None
    fail_fast: bool | None = None
    output_variables: tuple[Text, ...] = ()
    concurrency_group: str | None = None
    type: Literal["inline", "pipeline"] = "inline"
    custom: Text | None = None
    input_variables: tuple[Assignment, ...] = ()
    scopes: tuple[Text, ...] = ()
    at: Places = {}


class Parallel(msgspec.Struct, frozen=True):
    span: Span
    path: str
    steps: tuple[Step, ...]
    fail_fast: bool = False


class Stage(msgspec.Struct, frozen=True):
    span: Span
    path: str
    steps: tuple[Step | Parallel, ...]
    name: str | None = None
    condition: Condition | None = None
    trigger: Manual = "automatic"
    deployment: Text | None = None
    environment: Text | None = None
    at: Places = {}


class Final(msgspec.Struct, frozen=True):
    span: Span
    path: str
    step: Step


Item = Step | Parallel | Stage | Final


class CustomVariable(msgspec.Struct, frozen=True):
    """Of `variables:` at the head of a custom pipeline. No default: the user is asked for a value."""

    name: str
    span: Span
    default: str | None = None
    description: str | None = None
    allowed: tuple[str, ...] = ()


class Import(msgspec.Struct, frozen=True):
    """`repo:ref:pipeline` or `pipeline@source`, as written."""

    reference: str
    span: Span
    variables: tuple[CustomVariable, ...] = ()


class ImportSource(msgspec.Struct, frozen=True):
    """Of `definitions.imports`: a path in this repository, or `repo:ref[:path]`."""

    name: str
    location: str
    span: Span

    @property
    def local(self) -> bool:
        return ":" not in self.location


class Pipeline(msgspec.Struct, frozen=True):
    """`name` is the pattern, the custom name, or empty for `default`. Either `items` or `imported` or `destinations` is filled."""

    kind: Kind
    name: str
    span: Span
    path: str
    items: tuple[Item, ...] = ()
    variables: tuple[CustomVariable, ...] = ()
    imported: Import | None = None
    destinations: tuple[Pipeline, ...] = ()

    def steps(self) -> tuple[Step, ...]:
        """Every step, in the order of the text."""
        return tuple(step for item in self.items for step in steps_of(item))


class Trigger(msgspec.Struct, frozen=True):
    """One of `triggers.EVENT`: when `condition` holds, the custom `pipelines` start."""

    event: str
    condition: Text
    pipelines: tuple[Text, ...]


class AgentDefinition(msgspec.Struct, frozen=True):
    name: str
    span: Span
    prompt: str
    provider: str | None = None


class Definitions(msgspec.Struct, frozen=True):
    services: dict[str, Service] = {}
    caches: dict[str, Cache] = {}
    pipelines: dict[str, Pipeline] = {}
    imports: dict[str, ImportSource] = {}
    agents: dict[str, AgentDefinition] = {}


class Document(msgspec.Struct, frozen=True):
    """A file that Bitbucket would take. `warnings` were found while it was read; more come from `lint`."""

    source: Source
    image: Image | None
    clone: Clone
    options: Options
    definitions: Definitions
    default: Pipeline | None
    branches: tuple[Pipeline, ...]
    tags: tuple[Pipeline, ...]
    pull_requests: tuple[Pipeline, ...]
    bookmarks: tuple[Pipeline, ...]
    custom: dict[str, Pipeline]
    triggers: tuple[Trigger, ...]
    export: bool
    labels: dict[str, str]
    warnings: tuple[Diagnostic, ...]
    anchors: tuple[Anchor, ...] = ()

    def pipelines(self) -> tuple[Pipeline, ...]:
        """All of them, in the order default, branches, tags, pull-requests, bookmarks, custom, shared definitions."""
        first = () if self.default is None else (self.default,)
        flat = (
            *first,
            *self.branches,
            *self.tags,
            *self.pull_requests,
            *self.bookmarks,
            *self.custom.values(),
            *self.definitions.pipelines.values(),
        )
        return tuple(one for pipeline in flat for one in (pipeline, *pipeline.destinations))


def steps_of(item: Item) -> tuple[Step, ...]:
    """The steps of an item, in the order of the text."""
    if isinstance(item, Step):
        return (item,)
    if isinstance(item, Final):
        return (item.step,)
    if isinstance(item, Parallel):
        return item.steps
    return tuple(step for inner in item.steps for step in steps_of(inner))
