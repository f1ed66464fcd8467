"""Traces of builds: what OTEL_* asks for, both encodings as the schema's own classes read them, and a collector that does what it likes."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]  # its stubs are a package of their own
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lamina.cache.reason import Reason
from lamina.engine.engine import Engine
from lamina.engine.request import BuildRequest, BuildResult, ListedStep, Notice, ProgressEvent, StepEnded, StepOutput, StepStarted
from lamina.engine.tracing import sending
from lamina.engine.tracing.asked import Asked, BadTracing, asked, below
from lamina.engine.tracing.otlp import Span, as_json, as_protobuf
from lamina.engine.tracing.tracer import Tracer, tracer
from lamina.solver.cancel import CancelToken
from lamina.testing.collector import Collector, collecting

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "hunter2-of-the-build"


def read(body: bytes, kind: str) -> ExportTraceServiceRequest:
    found = ExportTraceServiceRequest()
    if kind == "application/x-protobuf":
        found.ParseFromString(body)
        return found
    document = json.loads(body)
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:  # OTLP's JSON has hexadecimal ids where protobuf's has base64
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in span:
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    json_format.ParseDict(document, found)
    return found


def received(collector: Collector) -> ExportTraceServiceRequest:
    _, headers, body = collector.got[-1]
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return read(body, headers["content-type"])


class Scripted:
    """An engine whose builds say what the test wants, at a clock that goes on by one second at each look."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.on_steps: Callable[[tuple[ListedStep, ...]], None] | None = None
        self.failed: BuildResult | None = None
        self._error = error
        self._time = 100.0

    def now(self) -> float:
        self._time += 1
        return self._time

    def build(self, request: BuildRequest, report: Callable[[ProgressEvent], None], cancel: CancelToken | None = None) -> BuildResult:
        assert self.on_steps is not None
        self.on_steps(
            (
                ListedStep(0, "base", 1, "FROM busybox AS base", "FROM", True, 0),
                ListedStep(0, "base", 2, "RUN make $TOKEN", "RUN", True, 1),
                ListedStep(0, "base", 3, f"ADD https://me:{SECRET}@host/x /", "ADD", True, 2),
                ListedStep(0, "base", 4, "RUN test\nmore", "RUN", True, 3),
            )
        )
        report(StepEnded(1, f"RUN make {SECRET}", "hit", Reason("same-key", f"{SECRET} is the same"), 0.0, 40.5, key=SECRET))
        report(StepStarted(2, "x"))
        report(StepOutput(2, "stdout", SECRET.encode()))
        report(StepEnded(2, "x", "ran", Reason("arg-changed", f"from {SECRET}"), 2.0, 0.0))
        report(StepStarted(3, "x"))
        if self._error is not None:
            report(StepEnded(3, "x", "failed", Reason("first-build", ""), 2.0, 0.0, f"RUN test {SECRET} ended with exit code 7"))
            self.failed = BuildResult("b2", (), (), 1.0)
            raise self._error
        report(StepEnded(3, "x", "ran", Reason("first-build", ""), 2.0, 0.0))
        return BuildResult("b1", (), (), 1.0)


def environment(collector: Collector, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **more}


def traced(given: dict[str, str], *, wait: bool = True, error: BaseException | None = None) -> list[str]:
    """Warnings of one scripted build."""
    said: list[str] = []
    found = tracer(given, said.append, wait=wait)
    assert found is not None
    events: list[ProgressEvent] = []
    request = BuildRequest(Path(), "Dockerfile", "", args={"TOKEN": SECRET}, tags=("app:1",), target="base")
    found.build(cast("Engine", Scripted(error)), request, events.append)
    assert len(events) == 6
    return said


def attributes(pairs: object) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}  # type: ignore[attr-defined]  # a repeated field


@pytest.mark.parametrize("protocol", ["http/json", "http/protobuf"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_build_is_a_span_and_each_step_one_below(protocol: str, compression: str) -> None:
    with collecting() as collector:
        more = {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_COMPRESSION": compression, "OTEL_SERVICE_NAME": "shop",
            "OTEL_RESOURCE_ATTRIBUTES": "team=a%20b,service.name=other", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=k%3D1,x=y", "TRACEPARENT": PARENT,
        }  # fmt: skip
        assert traced(environment(collector, **more)) == []
        path, headers, _ = collector.got[0]
        found = received(collector).resource_spans[0]
    assert path == "/v1/traces"
    assert headers["api-key"] == "k=1"
    assert attributes(found.resource.attributes) == {"service.name": "shop", "team": "a b"}
    whole, *steps = found.scope_spans[0].spans
    assert whole.name == "build"
    assert whole.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert whole.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes(whole.attributes)["lamina.build.saved_seconds"] == 40.5
    assert attributes(whole.attributes)["lamina.build.steps.ran"] == 2
    assert [step.name for step in steps] == ["RUN make $TOKEN", "ADD https://host/x /", "RUN test"]
    assert all(step.parent_span_id == whole.span_id and step.trace_id == whole.trace_id for step in steps)
    assert all(
        whole.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano <= whole.end_time_unix_nano for step in steps
    )
    told = [attributes(step.attributes) for step in steps]
    assert [(one["lamina.step.verdict"], one["lamina.step.reason"], one["lamina.step.line"]) for one in told] == [
        ("hit", "same-key", 2), ("ran", "arg-changed", 3), ("ran", "first-build", 4),
    ]  # fmt: skip
    assert told[0]["lamina.step.saved_seconds"] == 40.5
    assert all(span.status.code == 0 for span in (whole, *steps))


@pytest.mark.parametrize("protocol", ["http/json", "http/protobuf"])
def test_no_value_is_in_a_trace(protocol: str) -> None:
    with collecting() as collector:
        with pytest.raises(RuntimeError):
            traced(environment(collector, OTEL_EXPORTER_OTLP_PROTOCOL=protocol), error=RuntimeError(SECRET))
        assert SECRET.encode() not in collector.got[0][2]
        whole, *steps = received(collector).resource_spans[0].scope_spans[0].spans
    assert (whole.status.code, whole.status.message) == (2, "error")
    assert (steps[-1].status.code, steps[-1].status.message) == (2, "exit code 7")
    assert attributes(steps[-1].attributes)["process.exit.code"] == 7
    assert attributes(whole.attributes)["lamina.build.id"] == "b2"


def test_a_cancelled_build_is_told_as_that() -> None:
    with collecting() as collector:
        with pytest.raises(KeyboardInterrupt):
            traced(environment(collector), error=KeyboardInterrupt())
        whole = received(collector).resource_spans[0].scope_spans[0].spans[0]
    assert attributes(whole.attributes)["lamina.build.outcome"] == "cancelled"


def test_a_collector_that_refuses_is_one_line() -> None:
    with collecting() as collector:
        collector.answer = 503
        said = traced(environment(collector))
    assert len(said) == 1
    assert said[0].endswith("it answered 503")


def test_a_collector_that_is_away_is_one_line() -> None:
    with collecting() as collector:
        pass
    (said,) = traced(environment(collector))
    assert "Connection refused" in said


def test_a_collector_that_never_answers_holds_nobody() -> None:
    with collecting() as collector:
        collector.let_go.clear()
        (said,) = traced(environment(collector, OTEL_EXPORTER_OTLP_TIMEOUT="50"))
        assert "no answer in 0.05 s" in said
        assert traced(environment(collector), wait=False) == []


def test_a_machine_without_threads_builds_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with collecting() as collector:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            for _ in range(5):  # each gives its place back
                assert traced(environment(collector)) == ["the trace was not sent: RuntimeError"]
        assert traced(environment(collector)) == []


def test_more_traces_than_may_be_on_their_way_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_AT_ONCE", threading.BoundedSemaphore(4))  # those of other tests may still be on their way
    with collecting() as collector:
        collector.let_go.clear()
        for _ in range(4):
            assert traced(environment(collector), wait=False) == []
        for _ in range(4):
            assert collector.came.acquire(timeout=90)
        (said,) = traced(environment(collector), wait=False)
        assert said.endswith("others are still on their way")


def test_a_redirect_is_not_followed() -> None:
    with collecting() as collector:
        collector.answer = 307
        (said,) = traced(environment(collector))
        assert len(collector.got) == 1
    assert said.endswith("it answered 307")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "True"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "TRACEPARENT": PARENT[:-1] + "0"},
    ],
)
def test_no_trace_is_wanted(given: dict[str, str]) -> None:
    assert asked(given) is None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc: only"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "grpc: only"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///x"}, "no http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:99999"}, "no http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://a:{SECRET}@x"}, "HEADERS"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[x"}, "no http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x/a b"}, "no http"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": SECRET}, "HEADERS"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": f"a={SECRET}%0d%0aHost: y"}, "HEADERS"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "zstd"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "TIMEOUT"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, "TIMEOUT"),
    ],
)
def test_what_is_not_known_is_one_line_and_no_trace(given: dict[str, str], word: str) -> None:
    whole = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", **given}
    with pytest.raises(BadTracing) as caught:
        asked(whole)
    assert word in caught.value.message
    assert SECRET not in caught.value.message
    said: list[str] = []
    assert tracer(whole, said.append) is None
    assert len(said) == 1


def test_addresses() -> None:
    def endpoint(**given: str) -> str:
        found = asked({f"OTEL_{name}": value for name, value in given.items()})
        assert found is not None
        return found.endpoint

    assert endpoint(EXPORTER_OTLP_ENDPOINT="http://x:1/a/") == "http://x:1/a/v1/traces"
    assert endpoint(EXPORTER_OTLP_ENDPOINT="http://x", EXPORTER_OTLP_TRACES_ENDPOINT="https://y/z") == "https://y/z"
    assert endpoint(TRACES_EXPORTER="otlp") == "http://localhost:4318/v1/traces"


@pytest.mark.parametrize("parent", ["", "x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + PARENT[2:], PARENT[:-20]])
def test_a_parent_that_is_none_begins_a_trace(parent: str) -> None:
    found = asked({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "TRACEPARENT": parent})
    assert found is not None
    assert (found.trace, found.parent) == ("", "")


@pytest.mark.parametrize(
    ("parent", "state", "found"),
    [
        (PARENT, "a=b", ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "a=b")),
        (f" {PARENT.upper()} ", "", ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "")),
        (PARENT, "x" * 5000, ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "")),
        (PARENT, "a\nb", ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "")),
        ("", "a=b", ("", "", "")),
        (PARENT + "-" + "x" * 5000, "", ("", "", "")),
        (PARENT[:-1] + "0", "", None),
    ],
)
def test_below_what_a_client_names(parent: str, state: str, found: tuple[str, str, str] | None) -> None:
    made = below(Asked("http://x/v1/traces", "http/json"), parent, state)
    assert (None if made is None else (made.trace, made.parent, made.state)) == found


def test_values_of_all_kinds_in_both_encodings() -> None:
    given = (("text", "\udc80ü\n"), ("yes", True), ("no", False), ("count", -3), ("big", 1 << 40), ("half", 0.5))
    span = Span("ab" * 16, "cd" * 8, "x" * 300, 1, 1 << 62, state="a=b", attributes=given, error="\udc80")
    wanted = {"text": "?ü\n", "yes": True, "no": False, "count": -3, "big": 1 << 40, "half": 0.5}
    by_json = read(as_json((), [span]), "application/json")
    by_protobuf = read(as_protobuf((), [span]), "application/x-protobuf")
    assert by_json == by_protobuf
    assert attributes(by_json.resource_spans[0].scope_spans[0].spans[0].attributes) == wanted


def test_steps_of_several_platforms_are_all_there() -> None:
    class Twice(Scripted):
        def build(self, request: BuildRequest, report: Callable[[ProgressEvent], None], cancel: CancelToken | None = None) -> BuildResult:
            report(Notice("info", "platform linux/arm64", "platform"))
            super().build(request, report, cancel)
            report(Notice("info", "platform linux/amd64", "platform"))
            return super().build(request, report, cancel)

    with collecting() as collector:
        found = asked(environment(collector))
        assert found is not None
        Tracer(found, pytest.fail).build(cast("Engine", Twice()), BuildRequest(Path(), "Dockerfile", ""), lambda event: None)
        steps = received(collector).resource_spans[0].scope_spans[0].spans[1:]
    assert [attributes(step.attributes)["lamina.step.platform"] for step in steps] == ["linux/arm64"] * 3 + ["linux/amd64"] * 3
