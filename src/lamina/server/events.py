"""What happened, for `/events`: the last of it is remembered, listeners hear the rest."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from lamina.server import filters as filtering
from lamina.server.filters import Filters

_REMEMBERED = 1024
FILTERS = ("container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "service", "type", "volume", "builder")


class Event(msgspec.Struct, frozen=True):
    type: str
    action: str
    id: str
    attributes: Mapping[str, str]
    nano: int  # since the epoch

    def row(self) -> bytes:
        document: dict[str, Any] = {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": dict(self.attributes)},
            "scope": "local",
            "time": self.nano // 10**9,
            "timeNano": self.nano,
        }
        if self.type in ("container", "image"):
            document |= {"status": self.action, "id": self.id}
        if self.type == "container":
            document["from"] = self.attributes.get("image", "")
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def matches(self, filters: Filters) -> bool:
        def about(kind: str) -> bool:
            wanted = filters.get(kind)
            if not wanted:
                return True
            name = self.attributes.get("name", "")
            if self.type == kind:
                return any(
                    one in (self.id, name) or (kind == "container" and self.id.startswith(one)) or one == name.rpartition(":")[0]
                    for one in wanted
                )
            return kind == "image" and self.type == "container" and self.attributes.get("image", "") in wanted

        kinds = filters.get("type")
        actions = filters.get("event")
        return (
            (not kinds or self.type in kinds)
            and (not actions or any(self.action == one or self.action.startswith(one + ":") for one in actions))
            and all(about(kind) for kind in ("container", "image", "volume", "network"))
            and filtering.labels_match(filters, self.attributes)
        )


class Events:
    """Thread-safe. Listeners are called under no lock, in the order of the events of one thread; they must be quick and not raise."""

    def __init__(self, now_nano: Callable[[], int]) -> None:
        self._now = now_nano
        self._lock = threading.Lock()
        self._past: deque[Event] = deque(maxlen=_REMEMBERED)
        self._listeners: dict[int, Callable[[Event], None]] = {}
        self._count = 0

    def emit(self, kind: str, action: str, identifier: str, attributes: Mapping[str, str] | None = None) -> None:
        with self._lock:
            event = Event(kind, action, identifier, dict(attributes or {}), self._now())
            self._past.append(event)
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener(event)

    def past(self) -> list[Event]:
        with self._lock:
            return list(self._past)

    def listen(self, listener: Callable[[Event], None]) -> tuple[list[Event], Callable[[], None]]:
        """What was before, and how to withdraw: nothing is missed between the two."""
        with self._lock:
            self._count += 1
            number = self._count
            self._listeners[number] = listener
            return list(self._past), lambda: self._forget(number)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._listeners.pop(number, None)
