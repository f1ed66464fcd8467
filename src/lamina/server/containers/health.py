"""HEALTHCHECK: the test runs inside again and again; what it says is the container's health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lamina.diagnostics.errors import LaminaError
from lamina.server.clock import rfc3339
from lamina.server.containers.container import Container

if TYPE_CHECKING:
    from lamina.server.daemon import Daemon

_KEPT = 5
_OUTPUT = 4096


def watch(daemon: Daemon, container: Container, run: int) -> None:
    """Until the run ends. docker's defaults: every 30 s, 30 s long, 3 failures."""
    check: dict[str, Any] = container.record.config["Healthcheck"]
    interval = (check.get("Interval") or 30 * 10**9) / 10**9
    timeout = (check.get("Timeout") or 30 * 10**9) / 10**9
    retries = int(check.get("Retries") or 3)
    grace = (check.get("StartPeriod") or 0) / 10**9
    at_first = (check.get("StartInterval") or 0) / 10**9  # since API 1.44
    test = list(check["Test"])
    shell = container.record.config.get("Shell") or ["/bin/sh", "-c"]
    argv = test[1:] if test[0] == "CMD" else [*shell, *test[1:]]
    began = daemon.now()
    while True:
        with container.changed:
            starting = container.health is not None and container.health["Status"] == "starting" and daemon.now() - began < grace
            pause = at_first if at_first and starting else interval
            if container.changed.wait_for(lambda: container.ended >= run or container.removed, pause):
                return
        started = daemon.now()
        try:
            code, output = daemon.execs.run_quietly(container, argv, timeout, _OUTPUT)
        except LaminaError as error:
            code, output = -1, error.message.encode()
        with container.changed:
            if container.ended >= run or container.health is None:
                return
            _note(daemon, container, code, output, started, retries, started - began < grace)


def _note(daemon: Daemon, container: Container, code: int, output: bytes, started: float, retries: int, grace: bool) -> None:
    health = container.health
    assert health is not None
    entry = {"Start": rfc3339(started), "End": rfc3339(daemon.now()), "ExitCode": code, "Output": output.decode("utf-8", "replace")}
    health["Log"] = [*health["Log"][1 - _KEPT :], entry]
    before = health["Status"]
    if code == 0:
        health["FailingStreak"], health["Status"] = 0, "healthy"
    elif not (grace and before == "starting"):
        health["FailingStreak"] += 1
        if health["FailingStreak"] >= retries:
            health["Status"] = "unhealthy"
    if health["Status"] != before:
        daemon.events.emit("container", f"health_status: {health['Status']}", container.id, container.attributes())
