"""RUN becomes a SandboxSpec: which layers, variables and mounts it gets. The sandbox here only remembers what it was asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.engine.cachemounts import CacheMounts
from lamina.engine.request import Secret
from lamina.engine.results import Files, Filesystem, Result
from lamina.engine.runners.exec import ExecSurroundings, MountSourceMissing, run_exec
from lamina.engine.secrets import Secrets, SecretUnavailable
from lamina.graph.ops import ExecMount, ExecOp
from lamina.layer.context import ContextTree
from lamina.layer.flavour import Flavour, IdMap
from lamina.oci.digest import StateId
from lamina.oci.platform import Platform
from lamina.sandbox.protocols import CancelToken as Token
from lamina.sandbox.protocols import OnOutput, SandboxReport, SandboxSpec

FLAVOUR = Flavour("trusted") if os.geteuid() == 0 else Flavour("plain", IdMap("single"))
AMD = Platform("linux", "amd64")


class Remembers:
    name = "test"
    flavour = FLAVOUR

    def __init__(self) -> None:
        self.spec: SandboxSpec | None = None
        self.look: Callable[[SandboxSpec], None] = lambda spec: None

    def probe(self) -> tuple[str, ...]:
        return ()

    def run(self, spec: SandboxSpec, on_output: OnOutput, cancel: Token) -> SandboxReport:
        self.spec = spec
        self.look(spec)
        return SandboxReport(0)

    def close(self) -> None:
        pass


class Never:
    def cancelled(self) -> bool:
        return False

    def on_cancel(self, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Bench:
    """`run(mounts)` -> the spec. A filesystem's layers are the folders /layers/STATE/0, 1 (bottom first)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sandbox = Remembers()
        self.secrets: tuple[Secret, ...] = ()
        self.agents: dict[str, Path] = {}
        self.insecure = False
        self.count = 0

    def lowers(self, filesystem: Filesystem) -> Sequence[Path]:
        paths = [self.folder / "layers" / filesystem.state / str(n) for n in (0, 1)]
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        return paths

    def run(
        self, *mounts: ExecMount, inputs: Sequence[Result | None] = (), look: Callable[[SandboxSpec], None] | None = None, **op: object
    ) -> SandboxSpec:
        self.count += 1
        scratch, upper, work = (self.folder / f"run{self.count}" / name for name in ("scratch", "upper", "work"))
        for part in (scratch, upper, work):
            part.mkdir(parents=True)
        around = ExecSurroundings(
            self.sandbox,
            FLAVOUR,
            self.lowers,
            Secrets(self.secrets),
            self.agents,
            CacheMounts(self.folder / "mounts"),
            self.insecure,
            False,
        )
        if look is not None:
            self.sandbox.look = look
        known = {"args": ("/bin/sh", "-c", "true"), "env": ("A=1",), "cwd": "/work", "user": "", "platform": AMD, **op}
        operation = ExecOp(mounts=mounts, **known)  # type: ignore[arg-type]  # fields by name
        run_exec(operation, fs("root"), (fs("root"), *inputs), scratch, upper, work, around, lambda stream, data: None, Never())
        assert self.sandbox.spec is not None
        return self.sandbox.spec


def fs(state: str) -> Filesystem:
    return Filesystem(StateId(state), state, (), label=f"stage {state}")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def context(tmp_path: Path) -> Files:
    folder = tmp_path / "context"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("text")
    (folder / "sub/inner").write_text("inner")
    return Files(ContextTree(folder), "context", "build context")


def test_layers_are_given_top_first(bench: Bench) -> None:
    assert [path.name for path in bench.run().root.lowers] == ["1", "0"]


def test_what_a_plain_run_is(bench: Bench) -> None:
    spec = bench.run(env=("A=1",), proxy_env=("http_proxy=p",), user="app", ulimits=(("nofile", 1, 2),), extra_hosts=(("h", "10.0.0.1"),))
    assert spec.argv == ("/bin/sh", "-c", "true")
    assert spec.env == ("A=1", "http_proxy=p")
    assert (spec.cwd, spec.user, spec.hostname, spec.network, spec.shm_size) == ("/work", "app", "buildkitsandbox", "host", 64 << 20)
    assert (spec.rlimits, spec.hosts, spec.insecure) == ((("nofile", 1, 2),), (("h", "10.0.0.1"),), False)


def test_options_reach_the_sandbox(bench: Bench) -> None:
    spec = bench.run(network="none", hostname="me", shm_size=1 << 20)
    assert (spec.network, spec.hostname, spec.shm_size) == ("none", "me", 1 << 20)


def test_insecure_must_be_allowed(bench: Bench) -> None:
    with pytest.raises(LaminaError) as caught:
        bench.run(security="insecure")
    assert "--allow security.insecure" in (caught.value.hint or "")
    bench.insecure = True
    assert bench.run(security="insecure").insecure


def test_devices_are_refused(bench: Bench) -> None:
    with pytest.raises(LaminaError, match="device"):
        bench.run(devices=("nvidia",))


def test_a_bind_of_a_stage_is_its_layers_with_a_throw_away_upper(bench: Bench) -> None:
    mount = bench.run(ExecMount("bind", "/src", 1, "/app", readonly=True), inputs=[fs("deps")]).submounts[0]
    assert [path.parent.name for path in mount.overlay.lowers] == ["deps", "deps"]
    assert (mount.target, mount.selector, mount.readonly) == ("/src", "/app", True)
    assert mount.overlay.upper.is_relative_to(bench.folder / "run1/scratch")


@pytest.mark.parametrize(("selector", "shown", "name"), [("/", "/", "file"), ("/sub", "/", "inner"), ("/file", "/file", "file")])
def test_a_bind_of_the_context_is_a_copy(bench: Bench, context: Files, selector: str, shown: str, name: str) -> None:
    mount = bench.run(ExecMount("bind", "/src", 1, selector), inputs=[context]).submounts[0]
    (lower,) = mount.overlay.lowers
    assert mount.selector == shown
    assert (lower / name).is_file()


def test_a_bind_of_what_is_not_there(bench: Bench, context: Files) -> None:
    with pytest.raises(MountSourceMissing, match="'/none' is not in the build context"):
        bench.run(ExecMount("bind", "/src", 1, "/none"), inputs=[context])


def test_tmpfs(bench: Bench) -> None:
    assert [(t.target, t.size) for t in bench.run(ExecMount("tmpfs", "/t", size=5)).tmpfs] == [("/t", 5)]


# Cache mounts


def cache(**more: object) -> ExecMount:
    return ExecMount("cache", "/c", **{"cache_id": "c", **more})  # type: ignore[arg-type]  # fields by name


def test_a_cache_mount_is_the_same_folder_in_each_run(bench: Bench) -> None:
    one, two = (bench.run(cache()).binds[0] for _ in range(2))
    assert one.source == two.source
    assert (one.target, one.readonly) == ("/c", False)
    assert bench.run(cache(readonly=True)).binds[0].readonly


def test_a_cache_mounts_lock_is_held_while_the_step_runs(bench: Bench) -> None:
    import fcntl

    held: list[bool] = []

    def look(spec: SandboxSpec) -> None:
        with open(spec.binds[0].source.parent / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(False)
            except BlockingIOError:
                held.append(True)

    spec = bench.run(cache(sharing="locked"), look=look)
    look(spec)
    assert held == [True, False]


def test_owner_and_mode_of_a_cache_mount_are_part_of_what_it_is(bench: Bench) -> None:
    """BuildKit names a cache mount by its id and by what it begins with; a folder with another owner is another beginning."""
    plain, private, again = bench.run(cache()), bench.run(cache(mode=0o700)), bench.run(cache(mode=0o700))
    assert private.binds[0].source.stat().st_mode & 0o7777 == 0o700
    assert plain.binds[0].source.stat().st_mode & 0o7777 == 0o755
    assert plain.binds != private.binds
    assert private.binds == again.binds


def test_a_cache_mount_with_from_shows_that_below(bench: Bench) -> None:
    mount = bench.run(cache(input=1, selector="/seed"), inputs=[fs("seed")]).submounts[0]
    assert [path.parent.name for path in mount.overlay.lowers] == ["seed", "seed"]
    assert mount.selector == "/seed"
    again = bench.run(cache(input=1, selector="/seed"), inputs=[fs("seed")]).submounts[0]
    assert again.overlay.upper == mount.overlay.upper, "what was written stays"
    other = bench.run(cache(input=1, selector="/seed"), inputs=[fs("changed")]).submounts[0]
    assert other.overlay.upper != mount.overlay.upper, "an upper never meets other lowers"
    assert bench.run(cache()).binds[0].source != mount.overlay.upper.parent


def test_the_root_of_such_a_mount_has_the_sources_mode(bench: Bench) -> None:
    for path in bench.lowers(fs("seed")):
        path.chmod(0o711)
    mount = bench.run(cache(input=1), inputs=[fs("seed")]).submounts[0]
    assert mount.overlay.upper.stat().st_mode & 0o7777 == 0o711


def test_with_a_mode_a_cache_mount_begins_empty_whatever_from_says(bench: Bench) -> None:
    spec = bench.run(cache(input=1, mode=0o770), inputs=[fs("seed")])
    assert spec.submounts == ()
    assert spec.binds[0].source.stat().st_mode & 0o7777 == 0o770


# Secrets and agents


def test_a_secret_as_a_file(bench: Bench) -> None:
    bench.secrets = (Secret("tok", value=b"s3cret"),)
    (given,) = bench.run(ExecMount("secret", "/run/secrets/tok", id="tok", uid=5)).secrets
    assert (given.target, given.data, given.mode, given.uid, given.gid) == ("/run/secrets/tok", b"s3cret", 0o400, 5, 0)
    (relative,) = bench.run(ExecMount("secret", "tok", id="tok", mode=0o444)).secrets
    assert (relative.target, relative.mode) == ("/work/tok", 0o444)


def test_a_secret_as_a_variable_is_no_file(bench: Bench) -> None:
    bench.secrets = (Secret("tok", value=b"s3cret"),)
    spec = bench.run(ExecMount("secret", "", id="tok", env="TOK"))
    assert spec.env[-1] == "TOK=s3cret"
    assert spec.secrets == ()
    both = bench.run(ExecMount("secret", "/t", id="tok", env="TOK"))
    assert (both.env[-1], both.secrets[0].target) == ("TOK=s3cret", "/t")


def test_a_zero_byte_cannot_be_in_a_variable(bench: Bench) -> None:
    bench.secrets = (Secret("tok", value=b"a\0b"),)
    with pytest.raises(LaminaError, match="zero byte") as caught:
        bench.run(ExecMount("secret", "", id="tok", env="TOK"))
    assert "a\0b" not in str(caught.value)


def test_a_secret_that_was_not_given(bench: Bench) -> None:
    assert bench.run(ExecMount("secret", "/t", id="tok", env="TOK")).secrets == ()
    with pytest.raises(SecretUnavailable, match="required"):
        bench.run(ExecMount("secret", "/t", id="tok", required=True))


def test_an_agent_that_was_not_given(bench: Bench) -> None:
    assert bench.run(ExecMount("ssh", "/run/agent", id="default")).binds == ()
    with pytest.raises(SecretUnavailable, match="ssh agent 'default' is required"):
        bench.run(ExecMount("ssh", "/run/agent", id="default", required=True))
