"""Opening an engine: which rung, what is closed again, what registries are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.engine.opening import open_engine
from lamina.sandbox import rungs, userns
from lamina.sandbox.choice import choose
from lamina.sandbox.protocols import SandboxUnavailable
from lamina.store.errors import StoreDamaged
from lamina.testing.images import tar_of


def settings(root: Path) -> dict[str, object]:
    return {"rung": "none", "clock": lambda: 1000.0, "host": "here", "proxies": {}, "uid": os.geteuid()}


def test_root_takes_the_root_rung_and_enters_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "enter_best", lambda: pytest.fail("entered"))
    monkeypatch.setattr(rungs, "why_not", lambda rung: None)
    assert choose(None, 0) == ("root", ())


@pytest.mark.parametrize(
    ("entered", "own_disk", "refused", "rung"),
    [
        ("range", False, {"root"}, "userns"),
        (None, False, {"root"}, "chroot"),
        (None, False, {"root", "chroot"}, "proot"),
        ("range", True, set(), "chroot"),
        (None, False, {"root", "chroot", "proot"}, "none"),
    ],
)
def test_root_in_a_container(
    monkeypatch: pytest.MonkeyPatch, entered: str | None, own_disk: bool, refused: set[str], rung: str, tmp_path: Path
) -> None:
    """Strongest first; all that was in vain is told."""
    monkeypatch.setattr(rungs, "why_not", lambda asked: "refused" if asked in refused else None)
    monkeypatch.setattr(rungs, "on_overlay", lambda place: own_disk)
    monkeypatch.setattr(userns, "enter_best", lambda: (entered, () if entered else ("no namespace",)))
    chosen, tried = choose(None, 0, tmp_path)
    assert chosen == rung
    assert len(tried) >= len(refused)
    assert own_disk == any("volume" in text for text in tried)


@pytest.mark.parametrize(("rung", "kind"), [("root", ""), ("chroot", ""), ("proot", ""), ("userns", "range"), ("userns-single", "single")])
def test_a_forced_rung_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, rung: str, kind: str) -> None:
    def enter(wanted: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(rungs, "why_not", lambda asked: None if kind else "it is not there")
    monkeypatch.setattr(userns, "enter", enter)
    with pytest.raises(SandboxUnavailable, match=f"the sandbox {rung} cannot be used here: ") as caught:
        choose(rung, 1000)
    assert "\n" not in caught.value.message
    assert "lamina doctor" in (caught.value.hint or "")


@pytest.mark.parametrize(("entered", "rung"), [("range", "userns"), ("single", "userns-single"), (None, "none")])
def test_an_ordinary_user_takes_what_can_be_entered(monkeypatch: pytest.MonkeyPatch, entered: str | None, rung: str) -> None:
    monkeypatch.setattr(userns, "enter_best", lambda: (entered, ("what was tried",)))
    monkeypatch.setattr(rungs, "why_not", lambda asked: "it is not there")
    chosen, tried = choose(None, 1000)
    assert chosen == rung
    assert tried[0] == "what was tried"


@pytest.mark.parametrize(("rung", "kind"), [("userns", "range"), ("userns-single", "single")])
def test_a_forced_namespace_is_entered_as_that_kind(monkeypatch: pytest.MonkeyPatch, rung: str, kind: str) -> None:
    entered: list[str] = []
    monkeypatch.setattr(userns, "enter", entered.append)
    assert choose(rung, 0) == (rung, ())
    assert entered == [kind]


def test_a_rung_that_does_not_exist() -> None:
    with pytest.raises(SandboxUnavailable) as caught:
        choose("usersn", 0)
    assert caught.value.hint == "did you mean userns?"


def test_the_sandbox_is_made_when_it_is_needed_and_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Fake(rungs.NoSandbox):
        def close(self) -> None:
            made.append("closed")

    def make(rung: str, tried: tuple[str, ...], folder: Path, held: object, process: object) -> Fake:
        made.append(rung)
        return Fake(rungs.flavour_of(rung), tried)

    monkeypatch.setattr(rungs, "make", make)
    with open_engine(tmp_path / "s", **settings(tmp_path)):  # type: ignore[arg-type]  # keyword arguments from one place
        pass
    assert made == []
    with open_engine(tmp_path / "s", **settings(tmp_path)) as engine:  # type: ignore[arg-type]  # as above
        assert engine._sandbox() is engine._sandbox()
    assert made == ["none", "closed"]


def test_registries_are_told_whom_to_trust(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    with open_engine(tmp_path / "s", **settings(tmp_path), registry_ca=ca, insecure_registries=("r.example:5000",)) as engine:  # type: ignore[arg-type]  # as above
        transport = engine.registry().session.transport.settings
    assert transport.ca_file == ca
    assert transport.plain_http == {"r.example:5000"}


def test_a_damaged_database_is_rescued_only_on_demand(tmp_path: Path) -> None:
    import io

    from lamina.engine.images.importing import import_rootfs
    from lamina.oci.config import ImageConfig

    root = tmp_path / "s"
    told: list[tuple[str, ...]] = []
    with open_engine(root, **settings(tmp_path), on_rescue=told.append) as engine:  # type: ignore[arg-type]  # as above
        import_rootfs(
            engine.store, io.BytesIO(tar_of({"f": b"x"})), ImageConfig(os="linux", architecture="amd64"), ["docker.io/library/b:1"]
        )
    with open_engine(root, **settings(tmp_path), on_rescue=told.append):  # type: ignore[arg-type]  # as above
        pass
    assert told == [], "a sound store is left alone"
    (root / "state.db").write_bytes(b"no database " * 1000)
    with pytest.raises(StoreDamaged), open_engine(root, **settings(tmp_path)):  # type: ignore[arg-type]  # as above
        pass
    with open_engine(root, **settings(tmp_path), on_rescue=told.append) as engine:  # type: ignore[arg-type]  # as above
        assert [image.names for image in engine.store.images.all()] == [("docker.io/library/b:1",)]
    assert told == [("docker.io/library/b:1",)]


def test_the_store_is_closed_when_the_block_raises(tmp_path: Path) -> None:
    class Mistake(Exception):
        pass

    with pytest.raises(Mistake), open_engine(tmp_path / "s", **settings(tmp_path)) as engine:  # type: ignore[arg-type]  # as above
        raise Mistake
    assert not engine.store._open
