from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour
from lamina.oci.digest import DiffId, Digest, LayerId
from lamina.store.check import check
from lamina.store.gc import collect_garbage, du, on_disk, prune, prune_to_size
from lamina.store.keeping import keep
from lamina.store.layers import LayerFacts
from lamina.store.local import LocalStore
from lamina.store.policy import PrunePolicy
from lamina.store.refs import Image

DAY = 86400.0


def layer(number: int) -> LayerId:
    return LayerId(f"diff:{number:064x}")


class Scene:
    """Does things as a process that then ends, so that its lease protects nothing any more."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = 1_000_000.0

    def open(self) -> LocalStore:
        return LocalStore.open(self.root, Flavour("trusted"), now=lambda: self.time)

    def layer(self, number: int, size: int = 10, diff_id: str | None = None) -> None:
        with self.open() as store:
            active = store.layers.begin()
            (active.upper / "file").write_bytes(b"x" * size)
            store.layers.commit(active, layer(number), LayerFacts(diff_id=DiffId(diff_id) if diff_id else None))

    def blob(self, data: bytes) -> Digest:
        with self.open() as store:
            return store.blobs.put(data)

    def record(self, name: str, *numbers: int, seconds: float = 1.0, listing: Digest | None = None, project: str = "") -> None:
        document = {
            "key": name,
            "layers": [{"id": layer(number)} for number in numbers],
            "parts": {"inputs": [{"kind": "files", "id": "x", "listing": listing}]},
            "seconds": seconds,
            "project": project,
        }
        import hashlib

        doc = json.dumps(document).encode()
        with self.open() as store, store.database.write() as transaction:
            transaction.run(
                "INSERT INTO records VALUES (?,?,'Dockerfile','0',1,'t',?,?,NULL,?)",
                (hashlib.sha256(doc).hexdigest(), name, self.time, self.time, doc),
            )

    def image(
        self, name: str | None, *numbers: int, key: str = "", diff_ids: tuple[str, ...] = (), blobs: tuple[Digest, ...] = ()
    ) -> Image:
        with self.open() as store:
            config = store.blobs.put(json.dumps({"name": name or key, "rootfs": {"diff_ids": diff_ids}}).encode())
            manifest = store.blobs.put(json.dumps({"config": {"digest": config}, "layers": [{"digest": blob} for blob in blobs]}).encode())
            made = Image(config, manifest, "linux/amd64", self.time, 1, tuple(layer(number) for number in numbers), blobs)
            store.images.put(made, [name] if name else [])
            return made

    def fates(self) -> dict[str, str | None]:
        with self.open() as store:
            return dict(store.database.all(tuple[str, str | None], "SELECT key, fate FROM records"))

    def layers(self) -> set[int]:
        with self.open() as store:
            rows = {int(row.id[5:], 16) for row in store.layers.rows()}
        assert rows == {int(name[5:], 16) for name in os.listdir(self.root / "layers")}
        return rows


@pytest.fixture
def scene(root: Path) -> Iterator[Scene]:
    made = Scene(root)
    yield made
    with made.open() as store:
        assert check(store) == []


def test_what_nothing_needs_goes(scene: Scene) -> None:
    for number in (1, 2, 3, 4):
        scene.layer(number, diff_id=f"sha256:{number:064x}")
    listing, garbage = scene.blob(b"listing"), scene.blob(b"garbage")
    scene.record("k", 1, listing=listing)
    image = scene.image("app:1", 2)
    scene.image("web:1", diff_ids=(f"sha256:{3:064x}",))
    with scene.open() as store:
        swept = collect_garbage(store)
    assert swept.layers == (layer(4),)
    assert swept.blobs == (garbage,)
    assert swept.freed == 10 + len(b"garbage")
    assert scene.layers() == {1, 2, 3}
    with scene.open() as store:
        assert not store.blobs.missing([listing, image.id, image.manifest])
        assert collect_garbage(store).freed == 0


def test_a_dry_run_touches_nothing(scene: Scene) -> None:
    scene.layer(1)
    scene.record("k", 1)
    with scene.open() as store:
        assert prune(store, PrunePolicy(scene.time, everything=True), dry_run=True).swept.layers == (layer(1),)
    assert scene.layers() == {1}
    assert scene.fates() == {"k": None}


def test_what_a_living_process_uses_stays(scene: Scene) -> None:
    scene.layer(1)
    scene.layer(2)
    blob, other = scene.blob(b"used"), scene.blob(b"unused")
    with scene.open() as user:
        assert user.layers.path(layer(1)) is not None
        assert user.blobs.missing([blob]) == set()
        active = user.layers.begin()
        with user.blobs.ingest() as writer:
            writer.write(b"half")
            with scene.open() as store:
                swept = collect_garbage(store)
                assert swept.layers == (layer(2),)
                assert swept.blobs == (other,)
                assert prune(store, PrunePolicy(scene.time, everything=True)).swept.freed == 0
            digest = writer.commit()
        user.layers.commit(active, layer(3), LayerFacts())
        with scene.open() as store:
            assert collect_garbage(store).freed == 0
        assert user.blobs.read(digest) == b"half"
    assert scene.layers() == {1, 3}


def test_records_that_lose_a_layer_are_evicted(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.layer(number)
    scene.record("below", 1, seconds=50)
    scene.time += 9 * DAY
    scene.record("above", 2, 3)
    with scene.open() as store:
        pruned = prune(store, PrunePolicy(scene.time, max_age=7 * DAY))
    assert {decision.row.name: decision.remove for decision in pruned.decisions} == {
        layer(1): True,
        layer(2): False,
        layer(3): False,
    }
    assert scene.fates() == {"below": "evicted", "above": None}
    assert scene.layers() == {2, 3}


def test_a_lower_layer_is_as_young_as_the_records_that_need_it(scene: Scene) -> None:
    scene.layer(1)
    scene.record("old", 1)
    scene.time += 9 * DAY
    scene.record("new", 1, 2)
    with scene.open() as store:
        prune(store, PrunePolicy(scene.time, max_age=7 * DAY))
    assert scene.layers() == {1}
    assert scene.fates() == {"old": "expired", "new": None}
    with scene.open() as store:  # 2 was never here
        check(store, repair=True)


def test_the_cap_holds(scene: Scene) -> None:
    for number in range(1, 6):
        scene.layer(number, size=1000)
        scene.record(f"k{number}", number, seconds=number)
    with scene.open() as store:
        pruned = prune(store, PrunePolicy(scene.time, max_bytes=2500))
    assert pruned.swept.freed == 3000
    assert scene.layers() == {4, 5}
    assert scene.fates() == {"k1": "evicted", "k2": "evicted", "k3": "evicted", "k4": None, "k5": None}


def test_images_are_not_pruned(scene: Scene) -> None:
    scene.layer(1)
    scene.record("k", 1)
    scene.image("app:1", 1)
    with scene.open() as store:
        (decision,) = prune(store, PrunePolicy(scene.time, everything=True)).decisions
    assert decision.reason == "used by image app:1"
    assert scene.layers() == {1}


def test_pulled_images_go_with_the_cache(scene: Scene) -> None:
    blob = scene.blob(b"compressed")
    scene.layer(1, diff_id=f"sha256:{1:064x}")
    pulled = scene.image(None, 1, diff_ids=(f"sha256:{1:064x}",), blobs=(blob,))
    with scene.open() as store:
        store.facts.set_remote("base:1", "linux/amd64", pulled.manifest)
        store.layers.set_blob(layer(1), blob)
    with scene.open() as store:
        assert collect_garbage(store).freed == 0
    with scene.open() as store:
        assert store.blobs.missing([pulled.manifest, pulled.id, blob]) == set()
    with scene.open() as store:
        prune(store, PrunePolicy(scene.time, everything=True))
        assert store.images.all() == []
    with scene.open() as store:
        assert store.blobs.missing([pulled.manifest, pulled.id, blob]) == {pulled.manifest, pulled.id, blob}
        assert store.facts.remote("base:1", "linux/amd64") is None
    assert scene.layers() == set()


def test_images_without_a_name_go_by_age_since_their_last_use(scene: Scene) -> None:
    old, used = scene.image(None, key="old"), scene.image(None, key="used")
    named = scene.image("app:1")
    scene.time += 9 * DAY
    with scene.open() as store:
        assert store.images.by_id(used.id) is not None
    with scene.open() as store:
        collect_garbage(store)
        assert len(store.images.all()) == 3
        prune(store, PrunePolicy(scene.time, max_age=7 * DAY))
        assert {image.id for image in store.images.all()} == {used.id, named.id}
        assert store.blobs.missing([old.id]) == {old.id}


def test_leftovers_and_unnamed_folders_go(scene: Scene) -> None:
    scene.layer(1)
    scene.record("k", 1)
    (scene.root / "tmp" / "gone.1").write_text("x")
    (scene.root / "active" / "gone.2" / "work" / "work").mkdir(parents=True)
    (scene.root / "layers" / ("diff-" + "f" * 64) / "diff").mkdir(parents=True)
    with scene.open() as store:
        swept = collect_garbage(store)
    assert sorted(swept.leftovers) == ["active/gone.2", "tmp/gone.1"]
    assert scene.layers() == {1}


def test_du(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.layer(number, size=100 * number)
    scene.image("a:1", 1, 2)
    scene.image("b:1", 1)
    scene.record("k", 3)
    with scene.open() as store:
        usage = du(store)
    found = {(line.kind, line.name): (line.size, line.shared, line.reclaimable) for line in usage}
    assert found["image", "a:1"] == (300, 100, 0)
    assert found["image", "b:1"] == (100, 100, 0)
    assert found["record", layer(3)] == (300, 0, 300)
    assert found["layers", ""] == (600, 0, 300)
    assert found["blobs", ""][2] == 0


def test_collecting_is_safe_beside_building(scene: Scene, clock: Callable[[], float]) -> None:
    import threading

    stop = threading.Event()
    failures: list[BaseException] = []

    def collector() -> None:
        try:
            with scene.open() as store:
                while not stop.is_set():
                    prune(store, PrunePolicy(scene.time + 1, everything=True))
                    stop.wait(0.005)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=collector)
    thread.start()
    try:
        for round_ in range(10):
            with scene.open() as store:
                blob = store.blobs.put(b"%d" % (round_ % 2))
                active = store.layers.begin()
                path = store.layers.commit(active, layer(round_ % 2), LayerFacts())
                store.images.put(Image(blob, blob, "linux/amd64", 1.0, 1, (layer(round_ % 2),)), [f"n:{round_ % 2}"])
                assert path.is_dir()
                assert store.blobs.read(blob)
                assert store.images.untag(f"n:{round_ % 2}").deleted == (blob,)
                assert store.layers.path(layer(round_ % 2)) == path
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_the_cap_counts_all_that_lies_on_the_disk(scene: Scene) -> None:
    for number in range(1, 9):
        scene.layer(number, size=200_000)
        scene.record(f"k{number}", number, seconds=number)
    with scene.open() as store, store.database.write() as transaction:
        for number in range(5000):
            row = (f"{number}", f"{number}", 1.0, 1.0, "evicted", b"x" * 200)
            transaction.run("INSERT INTO records VALUES (?,?,'Dockerfile','0',1,'t',?,?,?,?)", row)
    scene.time += 100 * DAY
    with scene.open() as store:
        store.database.compact()
        before = on_disk(store.layout.root)
        cap = before - 700_000
        _, planned = prune_to_size(store, PrunePolicy(scene.time, max_bytes=cap), dry_run=True)
        assert (on_disk(store.layout.root), planned <= cap) == (before, True)
        done, left = prune_to_size(store, PrunePolicy(scene.time, max_bytes=cap))
        assert left == on_disk(store.layout.root) < cap - 500_000, "rows that are not needed any more go with it"
        assert len(done.decisions) >= 5, "decisions of what stays too"
    assert 8 in scene.layers(), "what is worth most"
    with scene.open() as store:
        left = prune_to_size(store, PrunePolicy(scene.time, max_bytes=0))[1]
        assert left < 3_000_000, "the empty store: database, folders, the room for a full disk"
    assert scene.layers() == set()


def test_files_that_layers_share_do_not_spoil_the_cap(scene: Scene) -> None:
    for number in range(1, 6):
        scene.layer(number, size=400_000)
        scene.record(f"k{number}", number, seconds=number)
    first = scene.root / "layers" / layer(1).replace(":", "-") / "diff" / "file"
    for number in range(2, 5):
        path = scene.root / "layers" / layer(number).replace(":", "-") / "diff" / "file"
        path.unlink()
        path.hardlink_to(first)
    with scene.open() as store:
        before = on_disk(store.layout.root)
        assert prune_to_size(store, PrunePolicy(scene.time, max_bytes=before))[0].swept.layers == (), "it holds already"
        left = prune_to_size(store, PrunePolicy(scene.time, max_bytes=before - 500_000))[1]
        assert left <= before - 500_000


def test_one_projects_part(scene: Scene) -> None:
    for number in range(1, 5):
        scene.layer(number, size=100)
    scene.record("a", 1, 3, project="a")
    scene.record("b", 2, 3, project="b")
    scene.record("none", 4)
    with scene.open() as store:
        lines = {line.name: (line.size, line.shared, line.reclaimable) for line in du(store) if line.kind == "project"}
    assert lines == {"a": (200, 100, 100), "b": (200, 100, 100)}
    scene.time += 9 * DAY
    with scene.open() as store:
        prune_to_size(store, PrunePolicy(scene.time, max_age=7 * DAY, project="a"))
    assert scene.layers() == {2, 3, 4}
    assert scene.fates() == {"a": "evicted", "b": None, "none": None}
    with scene.open() as store:
        prune_to_size(store, PrunePolicy(scene.time, max_bytes=0, project="b"))
    assert scene.layers() == {4}


def test_what_a_store_does_by_itself(scene: Scene) -> None:
    scene.layer(1)
    scene.record("k", 1)
    with scene.open() as store:
        assert keep(store, expiry=7 * DAY, cap=None, grown=True, running=lambda: scene.time) is None, "a new store has nothing that is old"
    scene.time += 1.1 * DAY
    with scene.open() as store:
        first = keep(store, expiry=7 * DAY, cap=None, grown=True, running=lambda: scene.time)
        assert first is not None
        assert first.pruned.swept.layers == ()
    scene.time += 0.9 * DAY
    with scene.open() as store:
        assert keep(store, expiry=7 * DAY, cap=None, grown=True, running=lambda: scene.time) is None, "once a day"
    scene.time += 7 * DAY
    with scene.open() as store:
        assert keep(store, expiry=None, cap=None, grown=True, running=lambda: scene.time) is None
        done = keep(store, expiry=7 * DAY, cap=None, grown=False, running=lambda: scene.time)
        assert done is not None
        assert done.pruned.swept.layers == (layer(1),)
        assert keep(store, expiry=None, cap=1 << 30, grown=False, running=lambda: scene.time) is None
        assert keep(store, expiry=None, cap=1 << 30, grown=True, running=lambda: scene.time) is not None
    assert scene.fates() == {"k": "evicted"}


def test_a_clock_that_leapt_ahead_throws_nothing_away(scene: Scene) -> None:
    """A year on the clock, a minute of running: somebody has set it. It goes on from there, and what is used then counts as used then."""
    ran = [1000.0]

    def running() -> float:
        return ran[0]

    scene.layer(1)
    scene.record("k", 1)
    with scene.open() as store:
        assert keep(store, expiry=7 * DAY, cap=None, grown=False, running=running) is None
    ran[0] += 60
    scene.time += 365 * DAY
    with scene.open() as store:
        assert keep(store, expiry=7 * DAY, cap=None, grown=False, running=running) is None
    scene.time -= 365 * DAY
    with scene.open() as store:
        assert keep(store, expiry=7 * DAY, cap=None, grown=False, running=running) is None, "and back"
    assert scene.fates() == {"k": None}
    for _ in range(8):
        ran[0] += 1.1 * DAY
        scene.time += 1.1 * DAY
        with scene.open() as store:
            assert keep(store, expiry=7 * DAY, cap=None, grown=False, running=running) is not None
    assert scene.fates() == {"k": "evicted"}


def test_everything_is_everything_also_of_a_clock_that_was_ahead(scene: Scene) -> None:
    scene.time += 365 * DAY
    scene.layer(1)
    scene.record("k", 1)
    with scene.open() as store:
        store.facts.set_http("http://x/", store.blobs.put(b"x"), None, None)
    scene.time -= 365 * DAY
    with scene.open() as store:
        prune(store, PrunePolicy(scene.time, max_age=7 * DAY))
        assert store.facts.http("http://x/") is not None
        prune(store, PrunePolicy(scene.time, everything=True))
        assert store.facts.http("http://x/") is None
    assert scene.layers() == set()
