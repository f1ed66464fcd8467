"""What a RUN may use: the words, and the files that are written into either version of control groups."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lamina.sandbox.limits import BadLimit, Limits, parse
from lamina.testing import standalone


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("memory=512m", Limits(memory=512 << 20)),
        ("memory=1g,cpus=1.5,pids=200", Limits(1 << 30, 1.5, 200)),
        (" cpus=2 , memory=4096 ", Limits(4096, 2.0)),
        ("memory=1.5GB", Limits(memory=3 << 29)),
    ],
)
def test_words(text: str, limits: Limits) -> None:
    assert parse(text) == limits


@pytest.mark.parametrize(
    "text", ["", "memory", "memory=", "memory=-1", "memory=5x", "cpus=nan", "cpus=inf", "pids=0", "memroy=5m", "cpus=1m"]
)
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(BadLimit) as caught:
        parse(text)
    assert caught.value.hint


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """limits.py with `tmp_path` as the machine's root."""
    with standalone.loaded("limits") as found:
        monkeypatch.setattr(found, "ROOT", str(tmp_path))
        (tmp_path / "proc" / "self").mkdir(parents=True)
        yield found


def machine(root: Path, cgroup: str, mounts: str) -> None:
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mounts)


def test_version_2_with_delegation(module: ModuleType, tmp_path: Path) -> None:
    machine(tmp_path, "0::/user/me\n", "30 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n")
    own = tmp_path / "cg/user/me"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpu memory pids")
    (own / "cgroup.subtree_control").write_text("memory pids")
    assert module.own_groups() == {"": str(own)}
    # A plain folder has none of the kernel's files: the first write fails, nothing stays, and rlimits take over.
    group = module.Group({"memory": 1 << 20, "cpus": 0.0, "pids": 9})
    assert group.how == "rlimit"
    assert sorted(path.name for path in own.iterdir()) == ["cgroup.controllers", "cgroup.subtree_control"]


def test_version_1_and_a_container_whose_path_is_that_of_its_mount(module: ModuleType, tmp_path: Path) -> None:
    machine(
        tmp_path,
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:pids:/elsewhere\n",
        "30 1 0:1 /docker/abc /cg/memory rw - cgroup cgroup rw,memory\n31 1 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 1 0:1 / /cg/pids rw - cgroup cgroup rw,pids\n",
    )
    for name in ("memory", "cpu/docker/abc", "pids"):
        (tmp_path / "cg" / name).mkdir(parents=True)
    found = module.own_groups()
    assert found["memory"] == str(tmp_path / "cg/memory")
    assert found["cpu"] == str(tmp_path / "cg/cpu/docker/abc")
    assert found["pids"] == str(tmp_path / "cg/pids"), "a path that is not there: the mount itself"


def test_kills_are_counted_in_both_versions(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert module.kills(str(tmp_path)) == 2
    (tmp_path / "memory.events").write_text("low 0\noom 5\noom_kill 3\n")
    assert module.kills(str(tmp_path)) == 3
    assert module.kills(str(tmp_path / "none")) == 0


def test_groups_of_the_dead_are_swept(module: ModuleType, tmp_path: Path) -> None:
    for name in ("lamina-999999999-1", "lamina-1-1", "other"):
        (tmp_path / name).mkdir()
    module.sweep(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "proc") == ["lamina-1-1", "other"]


def test_without_limits_nothing_is_made(module: ModuleType) -> None:
    group = module.Group({})
    assert (group.how, group.folders, group.close()) == ("", [], False)


FILES = {
    "2": ("cgroup.procs", "memory.max", "memory.swap.max", "memory.events", "cpu.max", "pids.max"),
    "memory": ("cgroup.procs", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"),
    "cpu": ("cgroup.procs", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
    "pids": ("cgroup.procs", "pids.max"),
}


class Kernel:
    """`os` of a machine whose control groups have files as soon as they are made, and go with them."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        os.mkdir(path, mode)
        kind = next(name for name in ("memory", "cpu", "pids", "2") if name == "2" or f"/cg/{name}" in path)
        for name in FILES[kind]:
            Path(path, name).touch()

    def rmdir(self, path: str) -> None:
        shutil.rmtree(path)


def written(folder: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(folder).iterdir() if path.read_text()}


def test_what_is_written_in_version_2(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, "0::/user/me\n", "30 1 0:1 / /cg rw - cgroup2 cgroup2 rw\n")
    own = tmp_path / "cg/user/me"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    (own / "cgroup.subtree_control").write_text("memory")
    monkeypatch.setattr(module, "os", Kernel())
    group = module.Group({"memory": 64 << 20, "cpus": 1.5, "pids": 9})
    assert group.how == "cgroup"
    (folder,) = group.folders
    assert folder.startswith(f"{own}/lamina-{os.getpid()}-")
    assert written(folder) == {"memory.max": str(64 << 20), "memory.swap.max": "0", "cpu.max": "150000 100000", "pids.max": "9"}
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    group.join()
    assert written(folder)["cgroup.procs"] == "0"
    assert not group.starved()
    Path(folder, "memory.events").write_text("oom 1\noom_kill 1\n")
    assert group.close()
    assert not Path(folder).exists()


def test_version_2_without_the_controllers_falls_back_on_version_1(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd's hybrid has it: version 2 is mounted, the controllers are version 1's."""
    names = ("memory", "cpu", "pids")
    machine(
        tmp_path,
        "".join(f"{number}:{name}:/\n" for number, name in enumerate(names, 1)) + "0::/\n",
        "29 1 0:1 / /cg/unified rw - cgroup2 cgroup2 rw\n"
        + "".join(f"{30 + number} 1 0:1 / /cg/{name} rw - cgroup cgroup rw,{name}\n" for number, name in enumerate(names)),
    )
    for name in ("unified", *names):
        (tmp_path / "cg" / name).mkdir(parents=True)
    (tmp_path / "cg/unified/cgroup.controllers").write_text("")
    monkeypatch.setattr(module, "os", Kernel())
    group = module.Group({"memory": 64 << 20, "cpus": 0.5, "pids": 9})
    assert group.how == "cgroup"
    memory, cpu, pids = group.folders
    assert written(memory) == {"memory.limit_in_bytes": str(64 << 20), "memory.memsw.limit_in_bytes": str(64 << 20)}
    assert written(cpu) == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    assert written(pids) == {"pids.max": "9"}
    group.join()
    assert [written(folder)["cgroup.procs"] for folder in group.folders] == ["0", "0", "0"]
    assert not group.close()
    assert not any(Path(folder).exists() for folder in (memory, cpu, pids))


def test_a_controller_that_is_missing_leaves_nothing_behind(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, "1:memory:/\n", "30 1 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n")
    (tmp_path / "cg/memory").mkdir(parents=True)
    monkeypatch.setattr(module, "os", Kernel())
    assert module.Group({"memory": 1 << 20, "pids": 9}).how == "rlimit"
    assert module.Group({"memory": 1 << 20, "pids": 9, "only_groups": 1}).how == ""
    assert list((tmp_path / "cg/memory").iterdir()) == []
