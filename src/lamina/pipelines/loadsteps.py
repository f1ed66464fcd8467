"""Steps, parallel groups, stages, the final step: the items of a pipeline."""

from __future__ import annotations

import re
from typing import cast

from lamina.pipelines import loadparts
from lamina.pipelines.model import CustomVariable, Final, Import, Item, Manual, Parallel, Stage, Step, Text
from lamina.pipelines.reading import Reader, places, take
from lamina.pipelines.tree import Entry, Mapping, Node, Scalar, Sequence, kind

MAX_SERVICES, MAX_INPUTS, MAX_GROUP = 5, 20, 50
STEP_KEYS = (
    "name", "script", "after-script", "image", "size", "max-time", "services", "caches", "artifacts", "clone", "condition", "deployment",
    "environment", "trigger", "oidc", "runs-on", "runtime", "fail-fast", "output-variables", "concurrency-group", "type", "custom",
    "input-variables", "auth",
)  # fmt: skip
STAGE_KEYS = ("name", "steps", "condition", "trigger", "deployment", "environment")
ITEM_KEYS = ("step", "parallel", "stage", "final", "variables")
# What a step of type pipeline may not have, in the order of Atlassian's page.
NOT_FOR_CHILDREN = (
    "script", "after-script", "deployment", "stage", "size", "runtime", "output-variables", "caches", "artifacts", "runs-on", "image", "clone", "oidc", "services",
)  # fmt: skip
_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TRIGGERS = ("automatic", "manual")


def items(reader: Reader, nodes: tuple[Node, ...], path: str, *, custom: bool) -> tuple[tuple[Item, ...], tuple[CustomVariable, ...]]:
    """The items of a pipeline, and the variables that a custom one begins with."""
    found: list[Item] = []
    variables: list[CustomVariable] = []
    finals = 0
    for index, node in enumerate(nodes):
        at = f"{path}[{index}]"
        entry = _only_key(reader, node, at, ITEM_KEYS)
        if entry is None:
            continue
        if entry.key == "step":
            one = step(reader, entry, f"{at}.step")
            found += () if one is None else (one,)
        elif entry.key == "parallel":
            group = parallel(reader, entry, f"{at}.parallel")
            found += () if group is None else (group,)
        elif entry.key == "stage":
            part = stage(reader, entry, f"{at}.stage")
            found += () if part is None else (part,)
        elif entry.key == "final":
            last = _final(reader, entry, f"{at}.final", last=index == len(nodes) - 1, again=bool(finals))
            finals += 1
            found += () if last is None else (last,)
            if custom:
                reader.warn(at, "the published schema does not name final among the items of a custom pipeline", entry.span)
        elif not custom:
            reader.error(
                at, "variables are for custom pipelines only", entry.span, "set them as repository variables, or with export in the script"
            )
        else:
            if found or variables:
                reader.warn(at, "variables belong before the first step", entry.span)
            variables += custom_variables(reader, entry.value, f"{at}.variables")
    return tuple(found), tuple(variables)


def _only_key(reader: Reader, node: Node, path: str, known: tuple[str, ...]) -> Entry | None:
    """The entry of `- step:` and the like. The usual mistakes: no indentation below it, two keys in one item."""
    if not isinstance(node, Mapping):
        reader.error(path, f"{kind(node)} where an item ({', '.join(known)}) belongs", node.span)
        return None
    named = [entry for entry in node if entry.key in known]
    others = [entry for entry in node if entry.key not in known]
    if not named:
        entry = node.entries[0] if node.entries else None
        near = reader.near(entry.key, known) if entry is not None else None
        told = f'"{entry.key}" is not an item of a pipeline' if entry is not None else "the item has no key"
        hint = f'did you mean "{near}"?' if near else f"an item is one of {', '.join(known)}"
        if entry is not None and entry.key in STEP_KEYS:
            hint = "a step's keys stand below `- step:`"
        reader.error(path, told, node.span if entry is None else entry.span, hint)
        return None
    if others or len(named) > 1:
        wrong = (others or named[1:])[0]
        hint = "indent the step's keys below `step:`" if wrong.key in STEP_KEYS else "begin another item with -"
        reader.error(path, f'"{wrong.key}" stands beside "{named[0].key}"; an item has one key', wrong.span, hint)
        if isinstance(named[0].value, Scalar):
            return None
    return named[0]


def step(reader: Reader, entry: Entry, path: str, *, in_stage: bool = False, final: bool = False) -> Step | None:
    if isinstance(entry.value, Scalar) and entry.value.value is None:
        reader.error(path, "the step is empty: script is missing", entry.span, "a step's keys stand below `step:`, further to the right")
        return None
    found = reader.mapping(entry.value, path)
    if found is None:
        return None
    reader.unknown(found, path, STEP_KEYS)
    child = _child(reader, found, path)
    if in_stage and (wrong := found.entry("condition")):
        reader.error(path, "condition is not allowed on a step of a stage; put it on the stage", wrong.span)
    if final:
        for key in ("deployment", "fail-fast"):
            if wrong := found.entry(key):
                reader.error(path, f"{key} is not allowed on the final step", wrong.span)
    if not child and found.get("script") is None:
        wrong_key = next((item.key for item in found if item.key not in STEP_KEYS and reader.near(item.key, ("script",))), None)
        hint = f'did you mean "script" instead of "{wrong_key}"?' if wrong_key else "a step needs `script:` with at least one command"
        place = next((item.span for item in found if item.key == wrong_key), entry.span)
        reader.error(path, "script is missing", place, hint)
    return Step(
        span=entry.span,
        path=path,
        name=take(found, "name", path, lambda node, at: reader.string(node, at, blank=True)),
        script=take(found, "script", path, lambda node, at: loadparts.script(reader, node, at)) or (),
        after_script=take(found, "after-script", path, lambda node, at: loadparts.script(reader, node, at)) or (),
        image=take(found, "image", path, lambda node, at: loadparts.image(reader, node, at)),
        size=take(found, "size", path, lambda node, at: loadparts.size(reader, node, at)),
        max_time=take(found, "max-time", path, lambda node, at: loadparts.max_time(reader, node, at)),
        services=_services(reader, found, path),
        caches=take(found, "caches", path, reader.texts) or (),
        artifacts=take(found, "artifacts", path, lambda node, at: loadparts.artifacts(reader, node, at)),
        clone=take(found, "clone", path, lambda node, at: loadparts.clone(reader, node, at)),
        condition=take(found, "condition", path, lambda node, at: loadparts.condition(reader, node, at)),
        deployment=take(found, "deployment", path, reader.text),
        environment=take(found, "environment", path, reader.text),
        trigger=cast(Manual, take(found, "trigger", path, lambda node, at: _trigger(reader, node, at, final)) or "automatic"),
        oidc=take(found, "oidc", path, reader.flag) or False,
        runs_on=take(found, "runs-on", path, lambda node, at: loadparts.labels(reader, node, at)) or (),
        runtime=take(found, "runtime", path, lambda node, at: loadparts.runtime(reader, node, at)),
        fail_fast=take(found, "fail-fast", path, reader.flag),
        output_variables=take(found, "output-variables", path, reader.texts) or (),
        concurrency_group=take(found, "concurrency-group", path, lambda node, at: _group(reader, node, at)),
        type="pipeline" if child else "inline",
        custom=take(found, "custom", path, reader.text),
        input_variables=take(found, "input-variables", path, lambda node, at: reader.assignments(node, at, most=MAX_INPUTS)) or (),
        scopes=take(found, "auth", path, lambda node, at: _scopes(reader, node, at)) or (),
        at=places(found),
    )


def _services(reader: Reader, found: Mapping, path: str) -> tuple[Text, ...]:
    node = found.get("services")
    if node is None:
        return ()
    at = f"{path}.services"
    if isinstance(node, Sequence) and len(node.items) > MAX_SERVICES:
        reader.error(at, f"{len(node.items)} services listed, a step may have at most {MAX_SERVICES}", node.span)
    return reader.texts(node, at)


def _child(reader: Reader, found: Mapping, path: str) -> bool:
    """Whether the step starts a child pipeline. Its `custom` is looked up when all names are known."""
    node = found.get("type")
    word = None if node is None else reader.choice(node, f"{path}.type", ("inline", "pipeline"))
    custom = found.entry("custom")
    if word != "pipeline":
        for key in ("custom", "input-variables"):
            if wrong := found.entry(key):
                reader.warn(path, f"{key} has no effect on a step that is not of type pipeline", wrong.span, "add `type: pipeline`")
        return False
    if custom is None:
        reader.error(path, "a step of type pipeline needs custom: NAME of a defined custom pipeline", found.span)
    wrong_keys = [
        key for key in NOT_FOR_CHILDREN if found.get(key) is not None and not (key == "artifacts" and _names_only(found.get(key)))
    ]
    if wrong_keys:
        told = ", ".join(wrong_keys[:-1]) + (" or " if len(wrong_keys) > 1 else "") + wrong_keys[-1]
        place = found.entry(wrong_keys[0])
        assert place is not None
        reader.error(path, f"a step of type pipeline cannot have {told}", place.span, "they belong to the steps of the child pipeline")
    inputs = found.get("input-variables")
    if isinstance(inputs, Mapping):
        for entry in inputs:
            if not _INPUT.fullmatch(entry.key):
                reader.error(
                    f"{path}.input-variables", f'"{entry.key}" is not a name (letters, digits, underscore, no digit first)', entry.span
                )
    return True


def _names_only(node: Node | None) -> bool:
    """The one form of artifacts that a child step may have: `upload:` with names."""
    if not isinstance(node, Mapping) or [entry.key for entry in node] != ["upload"]:
        return False
    upload = node.entries[0].value
    return isinstance(upload, Sequence) and all(isinstance(item, Scalar) for item in upload.items)


def _trigger(reader: Reader, node: Node, path: str, final: bool) -> str | None:
    if final and isinstance(node, Scalar) and node.text == "manual":
        reader.error(path, "the final step always runs automatically", node.span)
        return None
    return reader.choice(node, path, _TRIGGERS)


def _group(reader: Reader, node: Node, path: str) -> str | None:
    found = reader.text(node, path)
    if found is not None and len(found.value) > MAX_GROUP:
        reader.error(path, f"has {len(found.value)} characters, at most {MAX_GROUP} are allowed", found.span)
    return None if found is None else found.value


def _scopes(reader: Reader, node: Node, path: str) -> tuple[Text, ...]:
    found = reader.mapping(node, path, empty=True)
    if found is None:
        return ()
    reader.unknown(found, path, ("system",))
    system = take(found, "system", path, lambda inner, at: reader.mapping(inner, at, empty=True))
    if system is None:
        return ()
    scopes = take(system, "scopes", f"{path}.system", lambda inner, at: reader.texts(inner, at, least=0)) or ()
    seen: set[str] = set()
    for index, scope in enumerate(scopes):
        if scope.value in seen:
            reader.error(f"{path}.system.scopes[{index}]", f'"{scope.value}" is listed twice', scope.span)
        seen.add(scope.value)
    return scopes


def parallel(reader: Reader, entry: Entry, path: str) -> Parallel | None:
    """Both forms: a list of steps, or `{fail-fast, steps}`."""
    node, at, fail_fast = entry.value, path, None
    if isinstance(node, Mapping):
        reader.unknown(node, path, ("steps", "fail-fast"))
        fail_fast = take(node, "fail-fast", path, reader.flag)
        inner = node.get("steps")
        if inner is None:
            reader.error(path, "steps is missing", entry.span)
            return None
        node, at = inner, f"{path}.steps"
    found: list[Step] = []
    for index, item in enumerate(reader.items(node, at)):
        where = f"{at}[{index}]"
        if isinstance(item, Mapping) and (wrong := next((e for e in item if e.key in ("parallel", "stage", "final")), None)):
            reader.error(where, f"{wrong.key} cannot stand inside parallel; a parallel group holds steps only", wrong.span)
            continue
        only = _only_key(reader, item, where, ("step",))
        one = None if only is None else step(reader, only, f"{where}.step")
        found += () if one is None else (one,)
    return Parallel(entry.span, path, tuple(found), fail_fast or False)


def stage(reader: Reader, entry: Entry, path: str) -> Stage | None:
    found = reader.mapping(entry.value, path)
    if found is None:
        return None
    reader.unknown(found, path, STAGE_KEYS)
    inner: list[Step | Parallel] = []
    node = found.get("steps")
    if node is None:
        reader.error(path, "steps is missing", entry.span)
    else:
        for index, item in enumerate(reader.items(node, f"{path}.steps")):
            where = f"{path}.steps[{index}]"
            if isinstance(item, Mapping) and (wrong := next((e for e in item if e.key in ("stage", "final")), None)):
                reader.error(where, f"{wrong.key} cannot stand inside a stage", wrong.span)
                continue
            only = _only_key(reader, item, where, ("step", "parallel"))
            if only is None:
                continue
            if only.key == "parallel":
                reader.warn(where, "a parallel group inside a stage: older pages of Bitbucket forbid it", only.span)
                group = parallel(reader, only, f"{where}.parallel")
                inner += () if group is None else (group,)
            else:
                one = step(reader, only, f"{where}.step", in_stage=True)
                inner += () if one is None else (one,)
    for one in (step_ for item_ in inner for step_ in (item_.steps if isinstance(item_, Parallel) else (item_,))):
        if one.trigger == "manual":
            reader.error(one.path, "a manual step is not allowed inside a stage; put trigger on the stage", one.at.get("trigger", one.span))
        if one.deployment is not None:
            reader.warn(one.path, "deployment on a step of a stage; the stage is what holds an environment", one.deployment.span)
    return Stage(
        span=entry.span,
        path=path,
        steps=tuple(inner),
        name=take(found, "name", path, lambda inner_, at: reader.string(inner_, at, blank=True)),
        condition=take(found, "condition", path, lambda inner_, at: loadparts.condition(reader, inner_, at)),
        trigger=cast(Manual, take(found, "trigger", path, lambda inner_, at: reader.choice(inner_, at, _TRIGGERS)) or "automatic"),
        deployment=take(found, "deployment", path, reader.text),
        environment=take(found, "environment", path, reader.text),
        at=places(found),
    )


def _final(reader: Reader, entry: Entry, path: str, *, last: bool, again: bool) -> Final | None:
    if again:
        reader.error(path, "a second final step; a pipeline has at most one", entry.span)
    elif not last:
        reader.error(path, "final is not the last item; it must stand at the end of the pipeline", entry.span)
    one = step(reader, entry, path, final=True)
    return None if one is None else Final(entry.span, path, one)


def custom_variables(reader: Reader, node: Node, path: str) -> tuple[CustomVariable, ...]:
    found: list[CustomVariable] = []
    seen: set[str] = set()
    for index, item in enumerate(reader.items(node, path)):
        at = f"{path}[{index}]"
        mapping = reader.mapping(item, at)
        if mapping is None:
            continue
        reader.unknown(mapping, at, ("name", "default", "description", "allowed-values"))
        name = take(mapping, "name", at, reader.text)
        if mapping.get("name") is None:
            reader.error(at, "name is missing", mapping.span)
        default = take(mapping, "default", at, lambda inner, where: reader.text(inner, where, blank=True))
        allowed = take(mapping, "allowed-values", at, lambda inner, where: tuple(text.value for text in reader.texts(inner, where))) or ()
        if default is not None and allowed and default.value not in allowed:
            near = reader.near(default.value, allowed)
            reader.error(
                at,
                f'the default "{default.value}" is not among the allowed-values',
                default.span,
                f'did you mean "{near}"?' if near else None,
            )
        description = take(mapping, "description", at, lambda inner, where: reader.string(inner, where, blank=True))
        if name is not None:
            if name.value in seen:
                reader.warn(at, f'the variable "{name.value}" is declared twice', name.span)
            seen.add(name.value)
            found.append(CustomVariable(name.value, name.span, None if default is None else default.value, description, allowed))
    return tuple(found)


def imported(reader: Reader, found: Mapping, path: str) -> Import | None:
    """`import: repo:ref:pipeline` or `pipeline@source`, with variables beside it."""
    for entry in found:
        if entry.key not in ("import", "variables"):
            reader.error(path, f'"{entry.key}" cannot stand beside import', entry.span)
    reference = take(found, "import", path, reader.text)
    if reference is None:
        return None
    shared = reference.value.split(":")
    source = reference.value.split("@")
    if not (len(shared) == 3 and all(shared)) and not (len(source) == 2 and all(source)):
        reader.error(f"{path}.import", f'"{reference.value}" is neither repo:tag-or-branch:pipeline nor pipeline@source', reference.span)
        return None
    variables = take(found, "variables", path, lambda node, at: custom_variables(reader, node, at)) or ()
    return Import(reference.value, reference.span, variables)
