from __future__ import annotations

import json

from lamina.server.events import Event, Events


def test_listeners_hear_what_comes_and_are_given_what_was() -> None:
    events = Events(lambda: 5 * 10**9 + 7)
    events.emit("container", "create", "c1", {"name": "web", "image": "app", "tier": "x"})
    heard: list[Event] = []
    past, withdraw = events.listen(heard.append)
    events.emit("container", "start", "c1", {"name": "web"})
    withdraw()
    events.emit("container", "die", "c1", {"name": "web"})
    assert [event.action for event in past] == ["create"]
    assert [event.action for event in heard] == ["start"]


def test_a_row_has_the_new_and_the_old_fields() -> None:
    row = json.loads(Event("container", "create", "c1", {"name": "web", "image": "app"}, 5 * 10**9 + 7).row())
    assert row["Actor"] == {"ID": "c1", "Attributes": {"name": "web", "image": "app"}}
    assert (row["time"], row["timeNano"]) == (5, 5 * 10**9 + 7)
    assert (row["status"], row["id"], row["from"]) == ("create", "c1", "app")


def test_filters() -> None:
    event = Event("container", "exec_create: sh", "c1" * 8, {"name": "web", "image": "app", "tier": "x"}, 0)
    assert event.matches({})
    assert event.matches({"type": ["container"], "event": ["exec_create"], "container": ["web"], "label": ["tier=x"], "image": ["app"]})
    assert event.matches({"container": ["c1c1"]})
    assert not event.matches({"type": ["image"]})
    assert not event.matches({"event": ["start"]})
    assert not event.matches({"container": ["other"]})
    assert not event.matches({"label": ["tier=y"]})
