"""What dask's workers run: `sit`, a task that keeps a place, and `talk`, `hand.call` on a worker's event loop. Imported there by name."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from lamina.pipelines.remote import hand

_THREADS = ThreadPoolExecutor(256, thread_name_prefix="lamina")  # each waits; they are made when they are needed


def sit(ticket: str, lease: float) -> None:
    """As `hand.hold`. A worker that is closing kills the job."""
    from distributed import Status, get_worker

    worker = get_worker()
    hand.hold(ticket, lease, lambda: worker.status in (Status.running, Status.paused))


async def talk(request: bytes) -> bytes:
    try:
        return await asyncio.get_running_loop().run_in_executor(_THREADS, hand.call, request)
    except Exception as error:  # dask would write the request into the worker's log, secrets and all
        return hand.refused(f"{type(error).__name__} on the worker")
