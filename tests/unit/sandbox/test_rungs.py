"""Rungs by name: their flavours, what a probe makes of a run, what `none` says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.layer.flavour import Flavour, IdMap
from lamina.sandbox import rungs
from lamina.sandbox.protocols import Overlay, Sandbox, SandboxReport, SandboxSetupFailed, SandboxSpec, SandboxUnavailable
from lamina.sandbox.rungs import RUNGS, NamespaceSandbox, NoSandbox, check_name, flavour_of, make, on_overlay, warning, why_not

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="what no rung does is decided by what this process may do")


@pytest.mark.parametrize(
    ("rung", "uid", "flavour"),
    [
        ("root", 0, Flavour("trusted")),
        ("userns", 0, Flavour("user")),
        ("userns-single", 0, Flavour("user", IdMap("single"))),
        ("chroot", 0, Flavour("plain")),
        ("proot", 1000, Flavour("plain", IdMap("single"))),
        pytest.param("none", 0, Flavour("trusted", IdMap("real")), marks=AS_ROOT),
        ("none", 1000, Flavour("plain", IdMap("single"))),
    ],
)
def test_flavours(monkeypatch: pytest.MonkeyPatch, rung: str, uid: int, flavour: Flavour) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert flavour_of(rung) == flavour


def test_names() -> None:
    check_name(None)
    for rung in RUNGS:
        check_name(rung)
        made: Sandbox = make(rung)
        assert made.name == rung
        assert made.flavour == flavour_of(rung)
        made.close()
    with pytest.raises(SandboxUnavailable) as caught:
        make("docker")
    assert caught.value.hint == f"rungs: {', '.join(RUNGS)}"


class Never:
    def cancelled(self) -> bool:
        return False

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


SPEC = SandboxSpec(Overlay((), Path("/u"), Path("/w")), ("true",), ())


def test_none_refuses_with_all_that_was_tried() -> None:
    sandbox = NoSandbox(Flavour("plain"), ("no range", "no namespace"))
    assert sandbox.probe() == ()
    with pytest.raises(SandboxUnavailable, match="no range; no namespace") as caught:
        sandbox.run(SPEC, lambda stream, data: None, Never())
    assert "lamina doctor" in (caught.value.hint or "")
    with pytest.raises(SandboxUnavailable, match="`none` was asked for"):
        NoSandbox(Flavour("plain"), ()).run(SPEC, lambda stream, data: None, Never())


class FakeZygote:
    def __init__(self, code: int | None) -> None:
        self.code = code
        self.seen: SandboxSpec | None = None

    def run(self, spec: SandboxSpec, on_output: object, cancel: object) -> SandboxReport:
        self.seen = spec
        assert all(path.is_dir() for path in (*spec.root.lowers, spec.root.upper, spec.root.work))
        if self.code is None:
            raise SandboxSetupFailed("mounts: Permission denied")
        return SandboxReport(self.code)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("code", "problems"), [(127, ()), (0, ("the probe ended with 0",)), (None, ("mounts: Permission denied",))])
def test_a_probe_wants_all_to_work_up_to_exec(monkeypatch: pytest.MonkeyPatch, code: int | None, problems: tuple[str, ...]) -> None:
    sandbox = NamespaceSandbox("root", Flavour("trusted"))
    fake = FakeZygote(code)
    monkeypatch.setattr(sandbox, "_zygote", fake)
    assert sandbox.probe() == problems
    assert fake.seen is not None
    assert not fake.seen.root.work.exists(), "nothing of it stays"


def test_only_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert NamespaceSandbox("root", Flavour("trusted")).probe() == ("namespaces need Linux",)


@pytest.mark.parametrize(
    ("rung", "uid", "mask", "why"),
    [
        ("root", 1000, 0, "uid 0"),
        ("root", 0, 0xA80425FB, "CAP_SYS_ADMIN"),
        ("root", 0, 0x1FFFFFFFFFF, None),
        ("chroot", 1000, 0, "uid 0"),
        ("chroot", 0, 0xA80425FB, None),
        ("chroot", 0, 0, "capabilities"),
        ("userns", 1000, 0, None),
        ("none", 1000, 0, None),
    ],
)
def test_what_forbids_a_rung(monkeypatch: pytest.MonkeyPatch, rung: str, uid: int, mask: int, why: str | None) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(rungs, "may", lambda *asked: all(mask >> number & 1 for number in asked))
    found = why_not(rung)
    assert (found is None) == (why is None)
    assert why is None or why in (found or "")


def test_only_weak_rungs_warn() -> None:
    assert [rung for rung in RUNGS if warning(rung)] == list(rungs.WEAK)


def test_where_an_overlay_can_be(tmp_path: Path) -> None:
    assert not on_overlay(Path("/proc"))
    assert not on_overlay(Path("/proc/not/there"))
