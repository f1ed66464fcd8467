"""The dashboard's handlers over a real store, without a socket."""

from __future__ import annotations

import io
import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer
from lamina.store.builds import BuildLog
from lamina.testing.engineapi import call, daemon_at, rows

HOSTILE = "<script>alert(1)</script>\"'&\x00\udc80"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_at(tmp_path / "root", place="unix:///x.sock") as daemon:
        yield daemon


def step(stage: int, name: str, text: str, verdict: str = "hit", message: str = "same inputs") -> dict[str, object]:
    return {
        "stage": stage, "stage_name": name, "line": 1, "text": text, "verdict": verdict,
        "reason": {"code": "same-key", "message": message, "details": [message]}, "seconds": 1.5, "saved_seconds": 2.0,
    }  # fmt: skip


def keep(daemon: Daemon, identifier: str, steps: list[dict[str, object]], error: str | None = None) -> None:
    log = BuildLog(
        identifier, daemon.now(), "Dockerfile", msgspec.Raw(msgspec.json.encode(steps)), tags=("docker.io/library/app:1",), error=error
    )
    daemon.engine.store.builds.add(log)


def get(daemon: Daemon, target: str, headers: dict[str, str] | None = None) -> Answer:
    reply = call(daemon, "GET", target, headers={"host": "localhost", **(headers or {})})
    assert isinstance(reply, Answer)
    return reply


@pytest.mark.parametrize("path", ["/ui", "/ui/cache", "/ui/images", "/ui/style.css", "/ui/script.js", "/metrics"])
def test_every_page_of_an_empty_store(daemon: Daemon, path: str) -> None:
    reply = get(daemon, path)
    assert reply.status == 200
    assert "default-src 'none'" in dict(reply.headers)["Content-Security-Policy"]
    assert "unsafe" not in dict(reply.headers)["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/builds/none", "/ui/a/b"])
def test_pages_that_are_not_there(daemon: Daemon, path: str) -> None:
    reply = get(daemon, path)
    assert reply.status == 404
    assert reply.content_type.startswith("text/html")


def test_the_beginning_of_an_id_is_no_build(daemon: Daemon) -> None:
    keep(daemon, "b12", [])
    assert get(daemon, "/ui/builds/b1").status == 404


def test_a_build_shows_steps_reasons_and_both_drawings(daemon: Daemon) -> None:
    steps = [
        step(0, "base", "FROM busybox AS base"),
        step(0, "base", "RUN make", "ran", "main.c changed"),
        step(1, "", "FROM scratch"),
        step(1, "", "COPY --from=base /a /a"),
    ]
    keep(daemon, "b1", steps)
    assert 'href="/ui/builds/b1"' in get(daemon, "/ui").body.decode()
    body = get(daemon, "/ui/builds/b1").body.decode()
    assert "main.c changed" in body
    drawings = [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", body, re.DOTALL)]
    assert [drawing.get("aria-label") for drawing in drawings] == ["Graph of the build", "Timeline of the build"]
    edges = [path for path in drawings[0].iter() if path.get("class") == "edge"]
    assert len(edges) == 3  # FROM to RUN, FROM to COPY, and across the stages
    assert {node.get("class") for node in drawings[0].iter() if (node.get("class") or "").startswith("node")} == {"node hit", "node miss"}


def test_hostile_texts_are_escaped_everywhere(daemon: Daemon) -> None:
    keep(daemon, "b1", [step(0, HOSTILE.replace("\udc80", ""), HOSTILE.replace("\udc80", ""), "ran", "<img src=x>")], "<b>bad</b>")
    for path in ("/ui", "/ui/builds/b1", "/ui/builds/%3Cscript%3Ealert(1)"):
        body = get(daemon, path).body.decode()
        assert "<script>alert" not in body
        assert "<img" not in body
        assert "<b>" not in body
        assert "\x00" not in body


def test_images_are_listed(daemon: Daemon) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("f"), io.BytesIO())
    rows(daemon, "POST", "/images/create?fromSrc=-&repo=app", out.getvalue())
    body = get(daemon, "/ui/images").body.decode()
    assert "app:latest" in body
    assert "not known" in body


def test_metrics_count_builds_and_steps(daemon: Daemon) -> None:
    keep(daemon, "b1", [step(0, "a", "RUN x"), step(0, "a", "RUN y", "ran")])
    keep(daemon, "b2", [], "no")
    daemon.requests.count("GET", 200)
    daemon.requests.count('X"\n', 404)
    lines = get(daemon, "/metrics").body.decode().splitlines()
    for line in (
        'lamina_builds{outcome="ok"} 1',
        'lamina_builds{outcome="failed"} 1',
        'lamina_steps{verdict="hit"} 1',
        'lamina_steps{verdict="ran"} 1',
        "lamina_saved_seconds 4.0",
        'lamina_requests_total{method="GET",status="2xx"} 1',
        'lamina_requests_total{method="other",status="4xx"} 1',
    ):
        assert line in lines


def test_steps_of_another_shape_spoil_no_page(daemon: Daemon) -> None:
    keep(daemon, "b1", [{"strange": 1}])
    for path in ("/ui", "/ui/builds/b1", "/ui/cache", "/metrics"):
        assert get(daemon, path).status == 200
