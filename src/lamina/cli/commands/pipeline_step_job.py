"""`lamina pipeline step-job`: what a worker of a cluster runs. Hidden: people run pipelines, not jobs."""

from __future__ import annotations

import os
import sys
import threading

import click

from lamina.cli.settings import Settings


@click.command("step-job", hidden=True, short_help="Run one step that another machine has ordered")
@click.pass_obj
def step_job(settings: Settings, /) -> int:
    """Read an order from standard input, run its step, write frames to standard output."""
    from lamina.cli.stepjob import job

    data = sys.stdin.buffer.read()
    # Whatever else prints goes to standard error: between frames it would be taken for one.
    out = os.dup(1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def write(frame: bytes) -> None:
        view = memoryview(frame)
        with lock:
            while view:
                view = view[os.write(out, view) :]

    job(settings, data, write)
    return 0
