"""Two versions of lamina on one root: a later format is refused in one line and left alone; of the same format each leaves what it does not know."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lamina.cache.index import LocalRecords
from lamina.cache.record import Record
from lamina.layer.flavour import Flavour
from lamina.oci.digest import LayerId
from lamina.store.check import check
from lamina.store.errors import OtherStore
from lamina.store.gc import collect_garbage, prune
from lamina.store.layers import LayerFacts
from lamina.store.layout import FORMAT
from lamina.store.local import LocalStore
from lamina.store.policy import PrunePolicy
from lamina.testing.commandline import Lamina
from lamina.testing.conformance.recordcache import key, record

PLAIN = Flavour("trusted")
COMMANDS = (
    ["build", "CONTEXT"], ["build", "--no-cache", "CONTEXT"], ["plan", "CONTEXT"], ["images"], ["history", "app:1"], ["why", "app:1"], ["tag", "app:1", "app:2"],
    ["rmi", "app:1"], ["save", "-o", "out.tar", "app:1"], ["cache", "ls"], ["cache", "du"], ["cache", "prune", "--all"], ["cache", "forget", "COPY"],
    ["check"], ["check", "--repair"], ["check", "--deep", "--repair"], ["outdated"],
)  # fmt: skip


def state_of(root: Path) -> dict[str, tuple[int, str]]:
    """Names, modes and contents of all below, but for what SQLite keeps for readers."""
    found = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        if path.name not in ("state.db-shm", "state.db-wal") and "leases" not in path.parts[len(root.parts) :]:
            content = path.read_bytes() if path.is_file() and path.name != "ballast" else b""  # given up and made again for a prune
            found[str(path)] = (about.st_mode, hashlib.sha256(content).hexdigest())
    return found


def later_version(root: Path) -> None:
    (root / "VERSION").write_text((root / "VERSION").read_text().replace(f"format {FORMAT}", f"format {FORMAT + 1}"))


def later_database(root: Path) -> None:
    with closing(
        sqlite3.connect(root / "state.db")
    ) as connection:  # left to the collector, its log would be written back under a later command
        connection.execute(f"PRAGMA user_version={FORMAT + 1}")


def later_in_all(root: Path) -> None:
    """Its database is none that can be read here, and it has folders of its own."""
    later_version(root)
    (root / "state.db").write_bytes(b"a database of another kind" * 100)
    (root / "records2").mkdir()
    (root / "records2" / "one").write_text("{}")


@pytest.mark.parametrize("change", [later_version, later_database, later_in_all])
def test_a_later_format_is_refused_by_every_command_and_left_alone(change: Any, lamina: Lamina, tmp_path: Path) -> None:
    context, root = tmp_path / "context", tmp_path / "store"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /x\n")
    for _ in range(2):  # the second leaves a receipt
        assert lamina("build", "-t", "app:1", str(context)).code == 0
    change(root)
    before = state_of(root)
    for command in COMMANDS:
        done = lamina(*(str(context) if word == "CONTEXT" else word for word in command))
        lines = [line for line in done.err.splitlines() if not line.startswith("hint: ")]
        assert (done.code, done.out, len(lines)) == (78, "", 1), (command, done)
        assert f"has format {FORMAT + 1}; this lamina reads format {FORMAT}" in lines[0]
        assert state_of(root) == before, command
    assert os.listdir(root / "leases") == []


@pytest.mark.parametrize("text", ["format 0", "format 1.5", "format x"])
def test_an_earlier_or_strange_format_is_refused_too(text: str, tmp_path: Path) -> None:
    root = tmp_path / "store"
    LocalStore.open(root, PLAIN, now=lambda: 1.0).close()
    (root / "VERSION").write_text((root / "VERSION").read_text().replace(f"format {FORMAT}", text))
    before = state_of(root)
    with pytest.raises(OtherStore, match=f"has {text}; this lamina reads format {FORMAT}"):
        LocalStore.open(root, PLAIN, now=lambda: 1.0)
    assert state_of(root) == before


def later_document(one: Record) -> bytes:
    """As a later lamina of the same format may write it: more fields, at each level."""
    document = msgspec.to_builtins(one)
    document["weight"] = {"cpu": 3}
    document["layers"] = [layer | {"zstd": ["x"]} for layer in document["layers"]]
    document["place"]["file"] = 7
    document["parts"]["inputs"] = [part | {"why": None} for part in document["parts"]["inputs"]]
    return json.dumps(document, indent=1).encode()


def add(store: LocalStore, number: int, *, fate: str | None = None) -> bytes:
    """A layer and a later lamina's record of it."""
    active = store.layers.begin()
    (active.upper / "file").write_text(str(number))
    store.layers.commit(active, LayerId(f"diff:{number:064x}"), LayerFacts())
    one = record(number, layer=number)
    doc = later_document(one)
    with store.database.write() as transaction:
        transaction.run(
            "INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?,?)",
            (hashlib.sha256(doc).hexdigest(), one.key, one.place.dockerfile, one.place.stage, one.place.position, "t", 1.0, 1.0, fate, doc),
        )
    return doc


def test_what_a_later_lamina_of_this_format_wrote_is_used_and_kept(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with LocalStore.open(root, PLAIN, now=lambda: 2.0) as store:
        doc = add(store, 1)
        add(store, 2, fate="superseded")
        records = LocalRecords(store.database, store.now)
        with store.database.write() as transaction:
            transaction.run("CREATE TABLE later (name TEXT PRIMARY KEY, value BLOB)")
            transaction.run("INSERT INTO later VALUES ('a', x'01')")
        (root / "layers" / f"diff-{1:064x}" / "index").write_bytes(b"a later side file")
        (root / "context" / "later-kind").write_bytes(b"a later cache")
        (root / "later").mkdir()
        (root / "locks" / "later").touch()
        assert [one.state for one in records.lookup([key(1)])[key(1)]] == [record(1, layer=1).state]
        assert not records.lookup([key(2)])
        assert records.fates([key(2)]) == {key(2): "evicted"}
        assert len(records.neighbours(record(1).place)) == 2
        assert check(store) == []
    with LocalStore.open(root, PLAIN, now=lambda: 3.0) as store:
        collect_garbage(store)
        prune(store, PrunePolicy(now=3.0, max_age=1000.0))
        assert check(store, repair=True) == []
        assert store.database.all(tuple[bytes], "SELECT doc FROM records WHERE key=?", (key(1),)) == [(doc,)]
        assert store.database.all(tuple[str], "SELECT name FROM later") == [("a",)]
    assert (root / "layers" / f"diff-{1:064x}" / "index").read_bytes() == b"a later side file"
    assert (root / "later").is_dir()


def test_keys_of_another_epoch_lie_beside_ours(lamina: Lamina, tmp_path: Path) -> None:
    """Whoever made it: a record is found by its key only, and the miss says that the rules are others."""
    context, root, report = tmp_path / "context", tmp_path / "store", tmp_path / "report.json"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /x\n")
    assert lamina("build", str(context)).code == 0
    with closing(sqlite3.connect(root / "state.db")) as connection, connection:
        ((doc,),) = connection.execute("SELECT doc FROM records").fetchall()
        document = json.loads(doc)
        document["parts"]["schema"] += 1
        document["key"] = "sha256:" + "e" * 64
        other = json.dumps(document).encode()
        connection.execute("UPDATE records SET id=?, key=?, doc=?", (hashlib.sha256(other).hexdigest(), document["key"], other))
    assert lamina("build", "--report", str(report), str(context)).code == 0
    step = next(step for step in json.loads(report.read_text())["steps"] if step["text"].startswith("COPY"))
    assert (step["verdict"], step["reason"]["code"]) == ("ran", "schema-changed")
    assert lamina("check", "--repair").code == 0
    with closing(sqlite3.connect(root / "state.db")) as connection:
        assert connection.execute("SELECT count(*) FROM records WHERE fate IS NULL").fetchall() == [(2,)]
    assert lamina("build", "--report", str(report), str(context)).code == 0
    assert next(step for step in json.loads(report.read_text())["steps"] if step["text"].startswith("COPY"))["verdict"] == "hit"
