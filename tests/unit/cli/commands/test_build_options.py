"""The request that the options of build and plan make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from lamina.cli.commands.build_options import request_from, shared_options
from lamina.cli.settings import Settings
from lamina.engine.request import BuildRequest, Selector


def request(folder: Path, *arguments: str, **environment: str) -> BuildRequest:
    made: list[BuildRequest] = []

    @click.command()
    @shared_options
    def command(**options: Any) -> None:
        made.append(request_from(Settings.from_environment(environment, root=None, rung=None, debug=False), str(folder), options))

    done = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return made[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path


def test_nothing_given(folder: Path) -> None:
    assert request(folder) == BuildRequest(
        context=folder, dockerfile_name="Dockerfile", dockerfile_text="FROM scratch\n", dockerfile_path=folder / "Dockerfile"
    )


def test_everything_given(folder: Path) -> None:
    (folder / ".dockerignore").write_text("x\n")
    made = request(
        folder, "--target", "t", "--build-arg", "A=1", "--build-arg", "B", "--build-context", "c=/d", "--secret", "id=s,env=S", "--ssh", "k=/key",
        "--platform", "linux/arm64", "--label", "l=v", "--pull", "--no-cache", "--no-cache-filter", "a,b", "--refresh", "deps:3", "--max-age", "d=1h",
        "--network", "none", "--add-host", "h:1.2.3.4", "--shm-size", "1m", "--ulimit", "nofile=1:2", "--allow", "security.insecure", "--exact-modes",
        "--arg-scope", "named", "-j", "3", S="v", B="b",
    )  # fmt: skip
    assert (made.target, made.args, made.named_contexts) == ("t", {"A": "1", "B": "b"}, {"c": "/d"})
    assert (made.secrets[0].value, made.ssh, str(made.platforms[0])) == (b"v", {"k": Path("/key")}, "linux/arm64")
    assert (made.labels, made.pull, made.no_cache, made.no_cache_filter) == ({"l": "v"}, True, True, ("a", "b"))
    assert (made.refresh, made.max_age) == ((Selector("deps:3"),), ((Selector("d"), 3600.0),))
    assert (made.network, made.extra_hosts, made.shm_size, made.ulimits) == ("none", (("h", "1.2.3.4"),), 1 << 20, (("nofile", 1, 2),))
    assert (made.allow_insecure, made.exact_modes, made.arg_scope, made.jobs, made.cut_off) == (True, True, "named", 3, True)
    assert (made.ignore_text, made.ignore_name) == ("x\n", ".dockerignore")


def test_cut_off_comes_from_the_environment(folder: Path) -> None:
    assert not request(folder, LAMINA_CUT_OFF="off").cut_off
