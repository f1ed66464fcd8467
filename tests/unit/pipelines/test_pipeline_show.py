from __future__ import annotations

import json

from lamina.pipelines.choose import Start
from lamina.pipelines.load import load
from lamina.pipelines.plan import Plan, Request, plan
from lamina.pipelines.show import document_of, lines
from lamina.pipelines.variables import Variable

FILE = """
image: python:3
definitions: {services: {db: {image: pg}}, caches: {c: {path: x, key: {files: [lock]}}}}
pipelines:
  default:
    - step:
        name: "Build \\e[31mred"
        services: [db, docker]
        caches: [c, docker]
        artifacts: {paths: [dist/**], upload: [{name: u, paths: [y]}]}
        condition: {changesets: {includePaths: ['**']}}
        script: [make, "one\\ntwo", {pipe: 'a/b:1'}]
    - parallel: {fail-fast: true, steps: [{step: {script: [x]}}, {step: {script: [y], condition: {state: 'false'}}}]}
    - stage: {name: S, trigger: manual, deployment: prod, steps: [{step: {script: [z]}}]}
    - step: {name: Child, type: pipeline, custom: k}
    - final: {script: [end]}
  custom: {k: [{step: {script: [inner]}}]}
"""


def planned() -> Plan:
    secret = Variable("TOKEN", "hunter2", secured=True)
    return plan(load(FILE), Request(Start("branch", "main"), variables=(secret,), changed=("caf\udce9",)))


def test_lines_for_a_reader() -> None:
    text = "\n".join(lines(planned()))
    for part in (
        "1. Build \\x1b[31mred (caf\\udce9 changed, which ** includes)",
        "image python:3, size 1x, 2048 MB for the build, at most 120 min",
        "service db: pg, 1024 MB",
        "service docker: lamina, 1024 MB",
        "cache c: x, keyed by lock",
        "cache docker: images of the docker service",
        "artifacts dist/** y",
        "$ one …",
        "$ pipe a/b:1",
        "in parallel, stopped by the first failure:",
        "skipped: condition 'false' is false",
        "stage S, manual, deployment prod:",
        "starts a pipeline: child of",
        "[final]",
    ):
        assert part in text, part
    assert "\x1b" not in text
    assert "hunter2" not in text


def test_the_document_can_be_written_and_has_no_values_of_variables() -> None:
    text = json.dumps(document_of(planned()), ensure_ascii=False)
    text.encode()
    document = json.loads(text)
    assert [next(iter(item)) for item in document["items"]] == ["step", "parallel", "stage", "step", "step"]
    step = document["items"][0]["step"]
    assert step["memory"] == {"total": 4096, "build": 2048, "services": {"db": 1024, "docker": 1024}}
    assert step["caches"][0] == {"name": "c", "path": "x", "key_files": ["lock"]}
    assert step["script"][2] == {"pipe": "a/b:1"}
    assert "TOKEN" in step["variables"]
    assert document["items"][3]["step"]["child"]["items"][0]["step"]["script"] == ["inner"]
    assert document["items"][4]["step"]["final"] is True
    assert "hunter2" not in text
