"""A plan as text and as plain values for JSON. Values of variables are not shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lamina.diagnostics.render import Json, as_json
from lamina.pipelines.model import Agent, Cache, Command, Pipe, ScriptItem
from lamina.pipelines.plan import Plan, PlannedGroup, PlannedItem, PlannedStage, PlannedStep

State = Callable[[Cache], str]
"""What a step that begins now would find: `hit: …`, `miss: …`; empty where nobody looked."""


def _unknown(cache: Cache) -> str:
    return ""


def lines(plan: Plan, state: State = _unknown) -> Iterator[str]:
    """What would run, for a reader. Names and commands of the file cannot drive the terminal."""
    yield visible(plan.reason)
    for item in plan.items:
        yield from (visible(line) for line in _lines(item, "", state))


def visible(text: str) -> str:
    """Control characters, direction marks and undecodable bytes of file names as escapes."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _lines(item: PlannedItem, margin: str, state: State) -> Iterator[str]:
    if isinstance(item, PlannedStep):
        yield from _step_lines(item, margin, state)
    elif isinstance(item, PlannedGroup):
        yield f"{margin}in parallel{', stopped by the first failure' if item.fail_fast else ''}:"
        for step in item.steps:
            yield from _step_lines(step, margin + "  ", state)
    else:
        words = [
            f"stage {item.name}",
            *(["manual"] if item.manual else []),
            *([f"deployment {item.environment}"] if item.environment else []),
        ]
        yield f"{margin}{', '.join(words)}{_decision(item)}:"
        for inner in item.items:
            yield from _lines(inner, margin + "  ", state)


def _decision(item: PlannedStep | PlannedStage) -> str:
    if item.decision.verdict == "skip":
        return f" skipped: {item.decision.reason}"
    return f" ({item.decision.reason})" if item.decision.reason else ""


def _step_lines(step: PlannedStep, margin: str, state: State) -> Iterator[str]:
    words = [
        *(["final"] if step.final else []),
        *(["manual"] if step.manual else []),
        *([f"deployment {step.environment}"] if step.environment else []),
    ]
    told = f" [{', '.join(words)}]" if words else ""
    yield f"{margin}{step.number}. {step.name}{told}{_decision(step)}"
    if step.decision.verdict == "skip":
        return
    inner = margin + "     "
    if step.child is not None:
        yield f"{inner}starts a pipeline: {step.child.reason}"
        for item in step.child.items:
            yield from _lines(item, inner + "  ", state)
        return
    yield f"{inner}image {step.image.name}, size {step.size}, {step.memory.build} MB for the build, at most {step.minutes} min"
    for service in step.services:
        image = service.image.name if service.image is not None else "lamina"
        yield f"{inner}service {service.name}: {image}, {service.memory} MB"
    for cache in step.caches:
        found = state(cache)
        yield f"{inner}cache {cache.name}: {_cache_words(cache)}" + (f": {found}" if found else "")
    if step.step.artifacts is not None:
        names = [*step.step.artifacts.paths, *(path for upload in step.step.artifacts.uploads for path in upload.paths)]
        if names:
            yield f"{inner}artifacts {' '.join(str(name) for name in names)}"
    for script in step.step.script:
        yield f"{inner}$ {_script(script)}"


def _cache_words(cache: Cache) -> str:
    keyed = f", keyed by {' '.join(str(name) for name in cache.key_files)}" if cache.key_files else ""
    return (cache.path or "images of the docker service") + keyed


def _script(item: ScriptItem) -> str:
    if isinstance(item, Command):
        first, _, rest = item.text.strip().partition("\n")
        return first + (" …" if rest else "")
    return f"pipe {item.name}" if isinstance(item, Pipe) else f"agent {item.name}"


def document_of(plan: Plan, state: State = _unknown) -> Json:
    """Plain values. `steps` of groups and stages are nested as in the file; `line` is the file's."""
    result: Json = {"reason": visible(plan.reason), "pipeline": None, "items": [_item(item, state) for item in plan.items]}
    if plan.pipeline is not None:
        result["pipeline"] = {"kind": plan.pipeline.kind, "name": plan.pipeline.name, "line": plan.pipeline.span.line}
    result["problems"] = [as_json(item) for item in plan.problems]
    return result


def _item(item: PlannedItem, state: State) -> Json:
    if isinstance(item, PlannedStep):
        return {"step": _step(item, state)}
    if isinstance(item, PlannedGroup):
        return {"parallel": {"fail_fast": item.fail_fast, "line": item.span.line, "steps": [_step(step, state) for step in item.steps]}}
    stage: Json = {"name": item.name, "line": item.span.line, "manual": item.manual, "verdict": item.decision.verdict}
    if item.environment:
        stage["deployment"] = item.environment
    return {"stage": {**stage, "items": [_item(inner, state) for inner in item.items]}}


def _step(step: PlannedStep, state: State) -> Json:
    result: Json = {
        "number": step.number,
        "name": step.name,
        "line": step.span.line,
        "verdict": step.decision.verdict,
        "reason": visible(step.decision.reason),
        "image": step.image.name,
        "size": step.size,
        "max_time": step.minutes,
        "memory": {"total": step.memory.total, "build": step.memory.build, "services": dict(step.memory.services)},
        "services": [service.name for service in step.services],
        "caches": [_cache(cache, state) for cache in step.caches],
        "clone": {"enabled": step.clone.enabled, "depth": step.clone.depth or "full", "lfs": step.clone.lfs},
        "manual": step.manual,
        "final": step.final,
        "variables": sorted(one.name for one in step.variables.winners),
        "script": [_script_value(item) for item in step.step.script],
        "after_script": [_script_value(item) for item in step.step.after_script],
    }
    if step.parallel is not None:
        result["parallel"] = {"index": step.parallel[0], "count": step.parallel[1], "fail_fast": step.fail_fast}
    if step.environment:
        result["deployment"] = step.environment
    if step.step.artifacts is not None:
        result["artifacts"] = [str(name) for name in step.step.artifacts.paths]
        result["uploads"] = [upload.name for upload in step.step.artifacts.uploads]
    if step.child is not None:
        result["child"] = document_of(step.child, state)
    return result


def _cache(cache: Cache, state: State) -> Json:
    verdict, _, reason = state(cache).partition(": ")
    found: Json = {"name": cache.name, "path": cache.path, "key_files": [str(name) for name in cache.key_files]}
    return {**found, "state": verdict, "reason": visible(reason)} if verdict else found


def _script_value(item: ScriptItem) -> str | Json:
    if isinstance(item, Command):
        return item.text
    return {"agent": item.name} if isinstance(item, Agent) else {"pipe": item.name}
