"""Limits of containers, their restarts and their first process; they really run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.sandbox import groups
from lamina.server.containers import running
from lamina.server.daemon import Daemon
from lamina.server.http.messages import Answer
from lamina.testing import bases
from lamina.testing.engineapi import call, daemon_at, document, stream

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers of this test run as root"),
    pytest.mark.skipif(bases.why_not() is not None, reason=bases.why_not() or ""),
]
with_groups = pytest.mark.skipif(
    os.geteuid() == 0 and groups.possible() != {"memory", "cpus", "pids"}, reason="no control groups can be made here"
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with daemon_at(tmp_path / "root") as daemon:
        data = bases.busybox_tar(tmp_path / "base.tar").read_bytes()
        stream(daemon, "POST", "/images/create?fromSrc=-&repo=busybox", data)
        yield daemon


def create(daemon: Daemon, *command: str, **host: Any) -> str:
    body = {"Image": "busybox", "Cmd": command, "StopSignal": "SIGKILL", "HostConfig": {"NetworkMode": "none", **host}}
    return str(document(daemon, "POST", "/containers/create", body, 201)["Id"])


def start(daemon: Daemon, identifier: str) -> None:
    reply = call(daemon, "POST", f"/containers/{identifier}/start")
    assert isinstance(reply, Answer)
    assert reply.status == 204, reply.body


def wait(daemon: Daemon, identifier: str) -> int:
    return int(json.loads(stream(daemon, "POST", f"/containers/{identifier}/wait"))["StatusCode"])


def until(daemon: Daemon, identifier: str, **wanted: Any) -> None:
    """Until `inspect` says so. AssertionError after a while."""
    container = daemon.containers.find(identifier)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = document(daemon, "GET", f"/containers/{identifier}/json")
        if all({**found, **found["State"]}[name] == value for name, value in wanted.items()):
            return
        with container.changed:
            container.changed.wait(0.1)
    raise AssertionError(found["State"])


@with_groups
def test_memory_is_limited_and_the_kernel_s_kill_is_told(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "x=a; while true; do x=$x$x; done", Memory=16 << 20)
    start(daemon, identifier)
    assert wait(daemon, identifier) == 137
    assert document(daemon, "GET", f"/containers/{identifier}/json")["State"]["OOMKilled"] is True


@with_groups
def test_processes_are_counted_with_those_of_commands_inside_and_limits_change_while_it_runs(daemon: Daemon) -> None:
    identifier = create(daemon, "sleep", "1000", PidsLimit=4)
    start(daemon, identifier)
    made = document(
        daemon,
        "POST",
        f"/containers/{identifier}/exec",
        {"Cmd": ["sh", "-c", "for i in 1 2 3 4 5; do sleep 9 2>/dev/null & done"], "AttachStderr": True},
        201,
    )
    assert b"can't fork" in stream(daemon, "POST", f"/exec/{made['Id']}/start", {})
    container = daemon.containers.find(identifier)
    assert container.process is not None
    document(daemon, "POST", f"/containers/{identifier}/update", {"Memory": 64 << 20, "NanoCpus": 5 * 10**8, "PidsLimit": 50})
    usage = groups.usage((*container.process.groups, *container.made_groups))
    assert (usage.limit, usage.pids_limit) == (64 << 20, 50)
    folders = [Path(folder) for folder in (*container.process.groups, *container.made_groups)]
    call(daemon, "POST", f"/containers/{identifier}/kill")
    until(daemon, identifier, Status="exited")
    assert not [folder for folder in folders if folder.exists()]


def test_where_no_group_can_be_made_a_container_runs_and_says_that_it_is_not_limited(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "possible", frozenset)
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Memory": 64 << 20, "PidsLimit": 5}}
    warnings = document(daemon, "POST", "/containers/create", body, 201)["Warnings"]
    assert [warning.partition(" is ")[0] for warning in warnings] == ["memory", "the number of processes"]
    identifier = create(daemon, "sleep", "1000")
    start(daemon, identifier)
    answer = document(daemon, "POST", f"/containers/{identifier}/update", {"NanoCpus": 10**9})
    assert answer["Warnings"] == ["CPU is not limited: no control group for it can be made here"]
    assert daemon.containers.find(identifier).made_groups == ()


@pytest.mark.parametrize("host", [{"Memory": 1 << 20}, {"NanoCpus": 10**12}, {"NanoCpus": 10**8, "CpuQuota": 1000}])
def test_limits_that_cannot_be_meant(daemon: Daemon, host: dict[str, int]) -> None:
    reply = call(daemon, "POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], "HostConfig": host})
    assert isinstance(reply, Answer)
    assert reply.status == 400


def test_a_first_process_reaps_and_passes_signals_and_exit_codes_on(daemon: Daemon) -> None:
    orphan = "(sleep 0.01 & echo $! > /orphan); n=0; while kill -0 $(cat /orphan) && [ $n -lt 3000 ]; do n=$((n+1)); sleep 0.01; done 2>/dev/null"
    script = f"trap 'exit 5' TERM; {orphan}; ps -o stat | grep -c Z; while true; do sleep 0.01; done"  # kill finds a zombie too
    identifier = create(daemon, "sh", "-c", script, Init=True)
    start(daemon, identifier)
    container = daemon.containers.find(identifier)
    container.log.wait(0, lambda: container.ended >= container.run)
    assert stream(daemon, "GET", f"/containers/{identifier}/logs?stdout=1")[8:] == b"0\n"
    call(daemon, "POST", f"/containers/{identifier}/kill?signal=TERM")
    assert wait(daemon, identifier) == 5


def test_a_restart_policy_gives_up_after_so_many_times_and_a_stop_ends_it(daemon: Daemon) -> None:
    failing = create(daemon, "false", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2})
    start(daemon, failing)
    until(daemon, failing, Status="exited", RestartCount=2)
    ever = create(daemon, "false", RestartPolicy={"Name": "always"})
    start(daemon, ever)
    until(daemon, ever, Restarting=True, Running=True)
    call(daemon, "POST", f"/containers/{ever}/stop")
    until(daemon, ever, Status="exited", Restarting=False)


@pytest.mark.parametrize(("row", "seconds"), [(0, 0.1), (1, 0.2), (3, 0.8), (10, 60.0), (10**6, 60.0)])
def test_the_time_between_restarts_doubles_up_to_a_minute(daemon: Daemon, row: int, seconds: float) -> None:
    container = daemon.containers.find(create(daemon, "true", RestartPolicy={"Name": "always"}))
    container.state.restarts_in_a_row = row
    assert running.restart_delay(container) == pytest.approx(seconds)


_ENGINE = """
import sys, time
from pathlib import Path
from lamina.testing.engineapi import daemon_at
with daemon_at(Path(sys.argv[1])) as daemon:
    from lamina.server.containers import running
    for container in daemon.containers.all():
        if not container.state.stopped_by_user:
            running.start(daemon, container)
    print("up", flush=True)
    time.sleep(1000)
"""


def test_after_a_kill_of_the_engine_nothing_runs_on_and_the_next_one_starts_what_its_policy_wants(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with daemon_at(root) as daemon:
        stream(daemon, "POST", "/images/create?fromSrc=-&repo=busybox", bases.busybox_tar(tmp_path / "base.tar").read_bytes())
        ids = {
            name: create(daemon, "sleep", "1000", RestartPolicy={"Name": name}) for name in ("no", "always", "unless-stopped", "on-failure")
        }
        stopped = create(daemon, "sleep", "1000", RestartPolicy={"Name": "unless-stopped"})
        start(daemon, stopped)
        call(daemon, "POST", f"/containers/{stopped}/stop")
    with subprocess.Popen([sys.executable, "-c", _ENGINE, str(root)], stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"up\n"
        engine.send_signal(signal.SIGKILL)
    with daemon_at(root) as daemon:
        found = {name: document(daemon, "GET", f"/containers/{identifier}/json")["State"] for name, identifier in ids.items()}
        assert {(state["Status"], state["ExitCode"]) for state in found.values()} == {("exited", 137)}
        running.resume(daemon)
        for name in ("always", "unless-stopped", "on-failure"):
            until(daemon, ids[name], Status="running")
        until(daemon, ids["no"], Status="exited")
        until(daemon, stopped, Status="exited")
