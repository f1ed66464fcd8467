"""Where earlier builds ended. Every build that runs something asks, so this imports little."""

from __future__ import annotations

import msgspec

from lamina.store.local import LocalStore


def failures(store: LocalStore, last: int = 20) -> dict[str, tuple[float, str]]:
    """Keys of the steps at which the last builds failed -> (seconds since the epoch, the build's id), the newest of each."""
    found: dict[str, tuple[float, str]] = {}
    for log in store.builds.last(last):
        for step in msgspec.json.decode(log.steps) if log.error is not None and b'"failed"' in bytes(log.steps) else ():
            if step.get("failed") and step.get("key"):
                found.setdefault(step["key"], (log.created, log.id))
    return found
