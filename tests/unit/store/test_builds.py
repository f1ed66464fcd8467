from __future__ import annotations

import msgspec

from lamina.store.builds import BuildLog
from lamina.store.local import LocalStore
from lamina.store.standing import KEPT


def test_the_last_builds_are_kept(store: LocalStore) -> None:
    for number in range(KEPT + 5):
        store.builds.add(BuildLog(f"b{number:03}", float(number), "Dockerfile", images=("sha256:same",)))
    kept = store.builds.last()
    assert len(kept) == KEPT
    assert kept[0].id == f"b{KEPT + 4:03}"
    assert store.builds.get("b000") is None
    assert [log.id for log in store.builds.last(2)] == ["b104", "b103"]
    newest = store.builds.of_image("sha256:same")
    assert newest is not None
    assert newest.id == "b104"
    assert store.builds.of_image("sha256:other") is None


def test_steps_are_kept_as_they_are(store: LocalStore) -> None:
    steps = [{"line": 1, "text": "RUN %_", "reason": {"code": "first-build"}}]
    store.builds.add(BuildLog("x%1", 1.0, "Dockerfile", steps=msgspec.Raw(msgspec.json.encode(steps)), tags=("a:1",), target="prod"))
    found = store.builds.get("x%")
    assert found is not None
    assert msgspec.json.decode(found.steps) == steps
    assert (found.target, found.tags) == ("prod", ("a:1",))
    assert store.builds.get("%") is None
