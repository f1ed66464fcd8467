"""Build and plan reports as JSON documents: `lamina build --report`, `lamina plan --json`. The schema is docs/reference/report.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lamina.engine.request import BuildResult, PlanResult, StepReport
from lamina.oci import typed

REPORT_SCHEMA = 1


def _step(step: StepReport) -> dict[str, Any]:
    document: dict[str, Any] = {
        "stage": step.stage,
        "stage_name": step.stage_name,
        "index": step.index,
        "line": step.line,
        "text": step.text,
        "verdict": "ran" if step.verdict == "failed" else step.verdict,
        "reason": {"code": step.reason.code, "message": step.reason.message},
        "trigger": step.trigger,
        "seconds": round(step.seconds, 4),
        "saved_seconds": round(step.saved, 4),
    }
    if step.verdict == "failed":
        document["failed"] = True
        if step.error:
            document["error"] = step.error
    reason = document["reason"]
    if step.reason.details:
        reason["details"] = list(step.reason.details)
    if step.reason.paths:
        reason["paths"] = list(step.reason.paths)
    if step.reason.root_step:
        reason["root_step"] = step.reason.root_step
    if step.reason.record_age is not None:
        reason["record_age"] = round(step.reason.record_age, 1)
    if step.key:
        document["key"] = step.key
    if step.state:
        document["state"] = step.state
    if step.fetch_bytes:
        document["fetch_bytes"] = step.fetch_bytes
    return document


def step_documents(steps: tuple[StepReport, ...]) -> list[dict[str, Any]]:
    return [_step(step) for step in steps]


def report_document(result: BuildResult) -> dict[str, Any]:
    images = [
        {"id": i.id, "manifest": i.manifest, "platform": str(i.platform), "size": i.size, "tags": list(i.tags)} for i in result.images
    ]
    return {
        "schema": REPORT_SCHEMA,
        "build": result.build_id,
        "seconds": round(result.seconds, 4),
        "steps": [_step(step) for step in result.steps],
        "image": images[0] if images else {},
        "images": images,
        "warnings": list(result.warnings),
    }


def report_bytes(result: BuildResult) -> bytes:
    return msgspec.json.format(typed.encode_json(report_document(result)), indent=2)


def plan_bytes(plan: PlanResult) -> bytes:
    document = {
        "schema": REPORT_SCHEMA,
        "complete": plan.complete,
        "fetch_bytes": plan.fetch_bytes,
        "seconds_at_stake": round(plan.seconds_at_stake, 4),
        "images": [{"reference": i.reference, "platform": i.platform, "image": i.image, "fetch_bytes": i.fetch_bytes} for i in plan.images],
        "steps": [_step(step) for step in plan.steps],
        "warnings": list(plan.warnings),
    }
    return msgspec.json.format(typed.encode_json(document), indent=2)


def metadata_bytes(result: BuildResult) -> bytes:
    """`--metadata-file`, with buildx's names."""
    image = result.images[0]
    document: dict[str, Any] = {
        "containerimage.config.digest": image.id,
        "containerimage.digest": result.pushed[0][1] if result.pushed else image.manifest,
        "lamina.build.id": result.build_id,
    }
    if image.tags:
        document["image.name"] = ",".join(image.tags)
    return msgspec.json.format(typed.encode_json(document), indent=2)


def write_report(path: Path, result: BuildResult) -> None:
    """Replaces `path` in one rename. CannotWrite."""
    from lamina.engine.exporters.place import replacing

    with replacing(path, sync=False) as out:
        out.write(report_bytes(result) + b"\n")
