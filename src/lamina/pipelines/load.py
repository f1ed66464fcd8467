"""A file's text to a Document, or every error in it.

`load` refuses what Bitbucket refuses: what the published schema refuses, and the rules that the schema cannot say (check.py). What Bitbucket takes in silence
and surely was not meant is a warning of the document; `lint` has more of those.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import partial
from itertools import zip_longest

from lamina.diagnostics.diagnostic import Diagnostic
from lamina.diagnostics.span import Source
from lamina.pipelines import loadparts, loadsteps
from lamina.pipelines.check import check
from lamina.pipelines.errors import PipelineError
from lamina.pipelines.model import (
    AgentDefinition,
    Cache,
    Clone,
    Definitions,
    Document,
    ImportSource,
    Kind,
    Options,
    Pipeline,
    Service,
    Trigger,
)
from lamina.pipelines.reading import Reader, each, places, take
from lamina.pipelines.tree import Anchor, Entry, Mapping, Node, Scalar, Sequence, Tree, kind
from lamina.pipelines.yamltext import parse

ROOT_KEYS = ("image", "clone", "options", "definitions", "pipelines", "triggers", "export", "labels")
EVENTS = (
    "repository-push", "pullrequest-push", "pullrequest-created", "pullrequest-updated", "pullrequest-fulfilled", "pullrequest-rejected",
    "pullrequest-reviewer-status-updated", "pipeline-completed", "deployment-completed",
)  # fmt: skip
_PATTERNS: tuple[Kind, ...] = ("branches", "tags", "pull-requests", "bookmarks")
_DEFINITIONS = ("services", "caches", "pipelines", "imports", "agents", "steps")


def load(text: str, name: str = "bitbucket-pipelines.yml") -> Document:
    """Raises YamlError for what is not YAML and PipelineError with every other error of the file."""
    document, found = examine(text, name)
    errors = tuple(item for item in found if item.severity == "error")
    if errors or document is None:
        raise PipelineError(errors)
    return document


def examine(text: str, name: str = "bitbucket-pipelines.yml") -> tuple[Document | None, tuple[Diagnostic, ...]]:
    """The document as far as it can be read, and every error and warning in the order of the text. Raises YamlError."""
    tree = parse(text, name)
    reader = Reader()
    document = _document(reader, tree, Source(name, text))
    if document is not None:
        check(document, reader)
    found = tuple(sorted(reader.found, key=lambda item: (item.span.line, item.span.column) if item.span else (0, 0)))
    if document is not None:
        document = _with_warnings(document, tuple(item for item in found if item.severity != "error"))
    return document, found


def _with_warnings(document: Document, warnings: tuple[Diagnostic, ...]) -> Document:
    from msgspec.structs import replace

    return replace(document, warnings=warnings)


def _document(reader: Reader, tree: Tree, source: Source) -> Document | None:
    root = reader.mapping(tree.root, "")
    if root is None:
        return None
    _unknown_roots(reader, root, tree.anchors)
    export = take(root, "export", "", reader.flag) or False
    definitions = take(root, "definitions", "", lambda node, at: _definitions(reader, node, at)) or Definitions()
    default, groups, custom = _pipelines(reader, root, export, definitions)
    return Document(
        source=source,
        image=take(root, "image", "", lambda node, at: loadparts.image(reader, node, at)),
        clone=take(root, "clone", "", lambda node, at: loadparts.clone(reader, node, at)) or Clone(),
        options=take(root, "options", "", lambda node, at: _options(reader, node, at)) or Options(),
        definitions=definitions,
        default=default,
        branches=groups["branches"],
        tags=groups["tags"],
        pull_requests=groups["pull-requests"],
        bookmarks=groups["bookmarks"],
        custom=custom,
        triggers=take(root, "triggers", "", lambda node, at: _triggers(reader, node, at)) or (),
        export=export,
        labels=take(root, "labels", "", lambda node, at: _labels(reader, node, at)) or {},
        warnings=(),
        anchors=tree.anchors,
    )


def _unknown_roots(reader: Reader, root: Mapping, anchors: tuple[Anchor, ...]) -> None:
    """The root is open, so that anchors can be parked in it; a key that holds no anchor in use is a mistake."""
    used = sorted(anchor.span.line for anchor in anchors if anchor.used)
    end = root.span.source.text.count("\n") + 2
    for entry, after in zip_longest(root.entries, root.entries[1:]):
        if entry.key in ROOT_KEYS or entry.key.startswith("x-"):
            continue
        last = end if after is None else after.span.line
        if bisect_left(used, entry.span.line) < bisect_left(used, last):
            continue
        if reader.full:
            return
        near = reader.near(entry.key, ROOT_KEYS)
        hint = (
            f'did you mean "{near}"?'
            if near
            else "a branch belongs below pipelines.branches"
            if isinstance(entry.value, Sequence)
            else None
        )
        code = "pipeline/misspelt-key" if near else "pipeline/unknown-key"
        reader.warn(
            "", f'the top-level key "{entry.key}" is not known and holds no anchor in use: it has no effect', entry.span, hint, code
        )


def _options(reader: Reader, node: Node, path: str) -> Options | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    reader.unknown(found, path, ("docker", "max-time", "size", "runs-on", "runtime"))
    return Options(
        docker=take(found, "docker", path, reader.flag) or False,
        max_time=take(found, "max-time", path, lambda inner, at: loadparts.max_time(reader, inner, at)),
        size=take(found, "size", path, lambda inner, at: loadparts.size(reader, inner, at)),
        runs_on=take(found, "runs-on", path, lambda inner, at: loadparts.labels(reader, inner, at)) or (),
        runtime=take(found, "runtime", path, lambda inner, at: loadparts.runtime(reader, inner, at)),
        at=places(found),
    )


def _labels(reader: Reader, node: Node, path: str) -> dict[str, str] | None:
    found = reader.mapping(node, path, empty=True)
    return None if found is None else {entry.key: entry.value.text for entry in found if isinstance(entry.value, Scalar)}


def _definitions(reader: Reader, node: Node, path: str) -> Definitions | None:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return None
    _unknown_definitions(reader, found, path)
    services = take(found, "services", path, lambda inner, at: each(inner, at, reader, partial(_service, reader), empty=True)) or []
    caches = take(found, "caches", path, lambda inner, at: each(inner, at, reader, partial(_cache, reader), empty=True)) or []
    shared = (
        take(found, "pipelines", path, lambda inner, at: each(inner, at, reader, partial(_pipeline, reader, "shared"), empty=True)) or []
    )
    imports = take(found, "imports", path, lambda inner, at: _imports(reader, inner, at)) or []
    agents = take(found, "agents", path, lambda inner, at: each(inner, at, reader, partial(_agent, reader), empty=True)) or []
    return Definitions(
        {one.name: one for one in services},
        {one.name: one for one in caches},
        {one.name: one for one in shared},
        {one.name: one for one in imports},
        {one.name: one for one in agents},
    )


def _unknown_definitions(reader: Reader, found: Mapping, path: str) -> None:
    """Anything may be parked here for anchors; a service or a cache that stands one level too high has no effect."""
    services = found.get("services")
    for entry in found:
        if entry.key in _DEFINITIONS:
            continue
        if entry.key == "docker" and isinstance(entry.value, Mapping):
            reader.warn(
                "",
                "definitions.docker is not a known key and has no effect; docker memory belongs under definitions.services.docker.memory",
                entry.span,
                "move it below definitions.services",
                code="pipeline/misplaced-docker",
            )
        elif (
            isinstance(entry.value, Mapping)
            and {item.key for item in entry.value} & {"image", "memory"}
            and not isinstance(services, Scalar)
        ):
            reader.warn(
                path,
                f'"{entry.key}" looks like a service and has no effect here',
                entry.span,
                f"services belong under definitions.services.{entry.key}",
            )
        elif near := reader.near(entry.key, _DEFINITIONS):
            told = f'the key "{entry.key}" is not known and has no effect (did you mean "{near}"?)'
            reader.warn(path, told, entry.span, code="pipeline/unknown-key")


def _service(reader: Reader, entry: Entry, path: str) -> Service | None:
    found = reader.mapping(entry.value, path)
    if found is None:
        return None
    reader.unknown(found, path, ("image", "memory", "type", "variables"))
    written_type = take(found, "type", path, lambda node, at: reader.choice(node, at, ("docker",)))
    docker = written_type == "docker" or entry.key == "docker"
    image = take(found, "image", path, lambda node, at: loadparts.image(reader, node, at))
    if found.get("image") is None and not docker and found.get("type") is None:
        reader.error(path, "a service that is not of type docker needs an image", entry.span)
    memory = take(found, "memory", path, lambda node, at: reader.number(node, at, least=128, unit=" MB"))
    variables = take(found, "variables", path, reader.assignments) or ()
    return Service(entry.key, entry.span, image, memory, docker, variables, places(found))


def _cache(reader: Reader, entry: Entry, path: str) -> Cache | None:
    if not isinstance(entry.value, Mapping):
        written = reader.string(entry.value, path)
        return None if written is None else Cache(entry.key, entry.span, written)
    reader.unknown(entry.value, path, ("path", "key"))
    if entry.value.get("path") is None:
        reader.error(path, "path is missing", entry.span)
    where = take(entry.value, "path", path, reader.string)
    key = take(entry.value, "key", path, reader.mapping)
    files = () if key is None else take(key, "files", f"{path}.key", reader.texts) or ()
    if key is not None:
        reader.unknown(key, f"{path}.key", ("files",))
        if key.get("files") is None:
            reader.error(f"{path}.key", "files is missing", key.span)
    return None if where is None else Cache(entry.key, entry.span, where, files)


def _imports(reader: Reader, node: Node, path: str) -> list[ImportSource]:
    """Plain texts as Atlassian's page shows them, or mappings with `import` as the schema has them."""
    found = reader.mapping(node, path, empty=True)
    result: list[ImportSource] = []
    for entry in found or ():
        at = f"{path}.{entry.key}"
        if isinstance(entry.value, Mapping) and entry.value.get("import") is None and entry.key == "pipelines":
            result += _imports(reader, entry.value, at)
            continue
        inner = entry.value
        if isinstance(inner, Mapping):
            reader.unknown(inner, at, ("import",))
            if inner.get("import") is None:
                reader.error(at, "import is missing", entry.span)
                continue
            inner = inner.get("import") or inner
        text = reader.text(inner, at)
        if text is None:
            continue
        parts = text.value.split(":")
        if len(parts) > 3 or not all(parts):
            reader.error(at, f'"{text.value}" is neither a file nor repo:tag-or-branch[:file]', text.span)
        else:
            if len(parts) == 1 and not text.value.endswith(("pipelines.yml", "pipelines.yaml")):
                reader.warn(at, "the name of an imported file ends in pipelines.yml", text.span)
            result.append(ImportSource(entry.key, text.value, text.span))
    return result


def _agent(reader: Reader, entry: Entry, path: str) -> AgentDefinition | None:
    found = reader.mapping(entry.value, path)
    if found is None:
        return None
    reader.unknown(found, path, ("prompt", "provider", "permissions", "config"))
    prompt = take(found, "prompt", path, reader.string)
    if found.get("prompt") is None:
        reader.error(path, "prompt is missing", entry.span)
    provider = take(found, "provider", path, lambda node, at: reader.choice(node, at, ("rovodev", "claude")))
    return None if prompt is None else AgentDefinition(entry.key, entry.span, prompt, provider)


def _pipelines(
    reader: Reader, root: Mapping, export: bool, definitions: Definitions
) -> tuple[Pipeline | None, dict[str, tuple[Pipeline, ...]], dict[str, Pipeline]]:
    groups: dict[str, tuple[Pipeline, ...]] = dict.fromkeys(_PATTERNS, ())
    entry = root.entry("pipelines")
    if entry is None:
        if not (export and definitions.pipelines):
            near = next((item for item in root if item.key not in ROOT_KEYS and reader.near(item.key, ("pipelines",))), None)
            hint = (
                f'did you mean "pipelines" instead of "{near.key}"?'
                if near
                else "a pipelines file needs `pipelines:` with at least one pipeline"
            )
            reader.error("", "pipelines is missing", root.span if near is None else near.span, hint)
        return None, groups, {}
    if isinstance(entry.value, Scalar) and entry.value.value is None:
        reader.error("pipelines", "is empty", entry.span, "nothing can start; remove the file, or add `default:` with a step")
        return None, groups, {}
    found = reader.mapping(entry.value, "pipelines")
    if found is None:
        return None, groups, {}
    reader.unknown(found, "pipelines", ("default", "custom", *_PATTERNS))
    if not any(item.key in ("default", "custom", *_PATTERNS) for item in found):
        reader.error("pipelines", "holds no default, branches, tags, pull-requests or custom", entry.span)
    default = found.entry("default")
    for of in _PATTERNS:
        groups[of] = tuple(_named(reader, found, of))
    custom = _named(reader, found, "custom")
    return (
        None if default is None else _pipeline(reader, "default", default, "pipelines.default"),
        groups,
        {one.name: one for one in custom},
    )


def _named(reader: Reader, found: Mapping, of: Kind) -> list[Pipeline]:
    return take(found, of, "pipelines", lambda node, at: each(node, at, reader, partial(_pipeline, reader, of), empty=True)) or []


def _pipeline(reader: Reader, of: Kind, entry: Entry, path: str) -> Pipeline | None:
    name = "" if of == "default" else entry.key
    node = entry.value
    if isinstance(node, Mapping) and node.get("import") is not None:
        found = loadsteps.imported(reader, node, path)
        if of == "shared":
            reader.error(path, "a shared pipeline cannot import another one", entry.span)
        return None if found is None else Pipeline(of, name, entry.span, path, variables=found.variables, imported=found)
    if isinstance(node, Mapping) and of == "pull-requests" and (inner := node.get("destinations")) is not None:
        reader.warn(
            path, "destinations was dropped from the published schema; test BITBUCKET_PR_DESTINATION_BRANCH in the script", entry.span
        )
        nested = each(inner, f"{path}.destinations", reader, partial(_pipeline, reader, of))
        return Pipeline(of, name, entry.span, path, destinations=tuple(nested))
    if not isinstance(node, Sequence):
        wrong = kind(node)
        hint = None
        if isinstance(node, Mapping) and any(item.key in loadsteps.ITEM_KEYS for item in node):
            hint = "write `- step:`, with the hyphen"
        elif isinstance(node, Mapping) and of == "default":
            hint = "`default` is a list of steps; patterns belong below branches, tags or pull-requests"
        reader.error(path, f"{wrong} where a list of steps belongs", entry.span if isinstance(node, Scalar) else node.span, hint)
        return None
    items, variables = loadsteps.items(reader, reader.items(node, path), path, custom=of in ("custom", "shared"))
    return Pipeline(of, name, entry.span, path, items, variables)


def _triggers(reader: Reader, node: Node, path: str) -> tuple[Trigger, ...]:
    found = reader.mapping(node, path, empty=True)
    result: list[Trigger] = []
    for entry in found or ():
        at = f"{path}.{entry.key}"
        if entry.key not in EVENTS:
            near = reader.near(entry.key, EVENTS)
            reader.warn(
                path, f'"{entry.key}" is not an event that Bitbucket names', entry.span, f'did you mean "{near}"?' if near else None
            )
        for index, item in enumerate(reader.items(entry.value, at)):
            where = f"{at}[{index}]"
            mapping = reader.mapping(item, where)
            if mapping is None:
                continue
            reader.unknown(mapping, where, ("condition", "pipelines"))
            for key in ("condition", "pipelines"):
                if mapping.get(key) is None:
                    reader.error(where, f"{key} is missing", mapping.span)
            condition = take(mapping, "condition", where, reader.text)
            names = take(mapping, "pipelines", where, reader.texts) or ()
            if condition is not None:
                loadparts.check_expression(reader, condition, f"{where}.condition")
                result.append(Trigger(entry.key, condition, names))
    return tuple(result)
