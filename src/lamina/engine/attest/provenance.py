"""SLSA provenance, version 1 (slsa.dev/spec/v1.0/provenance): what an image was built from, out of its records. No path of the machine, no
secret, no value that looks like one; times are those of the records, so a build that found everything says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lamina.cache.record import Record
from lamina.cache.sensitive import sensitive
from lamina.engine.attest.sbom import image_purl, moment
from lamina.engine.freshness.origins import Origin
from lamina.version import __version__

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:lamina:dockerfile:v1"
BUILDER = "urn:lamina:builder:local"
Mode = Literal["min", "max"]
"""min: sources and target. max: arguments, labels and every step with its key too."""


def provenance(origin: Origin, records: Mapping[str, Record], mode: Mode) -> dict[str, Any]:
    """The predicate. `records` by key: those of the origin's steps that are still known."""
    recipe = origin.recipe
    external: dict[str, Any] = {"dockerfile": origin.dockerfile, "platform": origin.platform}
    if recipe.target:
        external["target"] = recipe.target
    if recipe.place:
        external["source"] = recipe.place
    if mode == "max":
        external["args"] = {name: value for name, value in recipe.args.items() if not sensitive(name, value)}
        external["labels"] = dict(recipe.labels)
    definition: dict[str, Any] = {
        "buildType": BUILD_TYPE,
        "externalParameters": external,
        "internalParameters": {"stages": [_stage(stage.name, stage.base, stage.copies) for stage in origin.stages]}
        if mode == "max"
        else {},
        "resolvedDependencies": dependencies(origin),
    }
    if mode == "max":
        definition["internalParameters"]["steps"] = [_step(step.stage, step.text, step.key, records.get(step.key)) for step in origin.steps]
    known = [records[step.key] for step in origin.steps if step.key in records]
    metadata: dict[str, Any] = {}
    if known:
        metadata["invocationId"] = max(known, key=lambda record: record.created).build
        metadata["startedOn"] = moment(min(record.created - record.seconds for record in known))
        metadata["finishedOn"] = moment(max(record.created for record in known))
    return {
        "buildDefinition": definition,
        "runDetails": {"builder": {"id": BUILDER, "version": {"lamina": __version__}}, "metadata": metadata},
    }


def dependencies(origin: Origin) -> list[dict[str, Any]]:
    """Bases, URLs and repositories with their digests."""
    found: list[dict[str, Any]] = []
    for base in origin.bases:
        uri = base.reference if "://" in base.reference else image_purl(base.reference.partition("@")[0], base.platform)
        found.append({"uri": uri, "digest": _digest(base.top or base.manifest)})
    for url in origin.urls:
        found.append({"uri": url.url, "digest": _digest(url.digest)})
    for git in origin.gits:
        found.append({"uri": f"git+{git.url}" + (f"@{git.ref}" if git.ref else ""), "digest": {"gitCommit": git.commit}})
    return found


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value}


def _stage(name: str, base: str | None, copies: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "base": base or "scratch", "copies": list(copies)}


def _step(stage: str, text: str, key: str, record: Record | None) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": stage, "instruction": text, "key": key}
    if record is not None:
        row |= {"finishedOn": moment(record.created), "seconds": round(record.seconds, 3), "build": record.build, "diff": record.diff}
    return row
