"""Text of options into values; each mistake is named."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.cli import inputs
from lamina.cli.inputs import BadOption
from lamina.engine.request import Selector


def refused(act: Callable[[], object]) -> BadOption:
    with pytest.raises(BadOption) as caught:
        act()
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value


def test_pairs() -> None:
    assert inputs.pairs(("a=1", "b=x=y", "c="), "--label") == {"a": "1", "b": "x=y", "c": ""}
    assert "--label 'a'" in refused(lambda: inputs.pairs(("a",), "--label")).message
    refused(lambda: inputs.pairs(("=1",), "--label"))


def test_build_args_take_the_environments_value() -> None:
    found = inputs.build_args(("A=1", "B", "C", "D="), {"B": "from outside"})
    assert found == {"A": "1", "B": "from outside", "D": ""}
    refused(lambda: inputs.build_args(("=x",), {}))


def test_fields() -> None:
    assert inputs.fields('id=a,"src=b,c"', "--secret", ("id", "src")) == {"id": "a", "src": "b,c"}
    assert refused(lambda: inputs.fields("idd=a", "--secret", ("id", "src"))).hint == "did you mean id?"
    assert refused(lambda: inputs.fields("zzz=a", "--secret", ("id", "src"))).hint == "known: id, src"
    refused(lambda: inputs.fields("id", "--secret", ("id",)))


def test_secret_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tok").write_bytes(b"x")
    assert inputs.secret("id=t,src=tok", {}).file == tmp_path / "tok"
    assert inputs.secret("id=t,env=V", {"V": "v"}).value == b"v"
    assert inputs.secret("id=V", {"V": "v"}).value == b"v", "without either: the variable of that name"
    assert inputs.secret("id=tok", {}).file == tmp_path / "tok", "else the file of that name"
    assert inputs.secret("id=tok,type=file", {"tok": "v"}).file == tmp_path / "tok"
    assert inputs.secret("id=t,type=env,src=V", {"V": "v"}).value == b"v"
    assert inputs.secret("id=t,env=V", {"V": os.fsdecode(b"\xff")}).value == b"\xff"


@pytest.mark.parametrize("value", ["src=tok", "id=", "id=t,src=none", "id=t,env=NONE", "id=t,type=other", "id=t,what=x", ""])
def test_bad_secrets(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: inputs.secret(value, {}))


def test_ssh() -> None:
    assert inputs.ssh(("default",), {"SSH_AUTH_SOCK": "/a"}) == {"default": Path("/a")}
    assert inputs.ssh(("k=/key", "default=/b"), {}) == {"k": Path("/key"), "default": Path("/b")}
    assert "SSH_AUTH_SOCK" in refused(lambda: inputs.ssh(("default",), {})).message
    refused(lambda: inputs.ssh(("k=/a,/b",), {}))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("12h", 43200), ("1d12h", 129600), ("1.5m", 90), ("1w", 604800)])
def test_duration(text: str, seconds: float) -> None:
    assert inputs.duration(text, "--x") == seconds


@pytest.mark.parametrize("text", ["", "h", "1y", "-1h", "1 h", "1h!", "٣h"[1:]])
def test_bad_duration(text: str) -> None:
    refused(lambda: inputs.duration(text, "--x"))


def test_max_age() -> None:
    assert inputs.max_age("deps=12h") == (Selector("deps"), 43200)
    assert inputs.max_age("RUN A=1 make=1d") == (Selector("RUN A=1 make"), 86400)
    refused(lambda: inputs.max_age("deps"))
    refused(lambda: inputs.max_age("=1h"))


@pytest.mark.parametrize(
    ("text", "count"), [("64m", 64 << 20), ("1g", 1 << 30), ("512000", 512000), ("1KB", 1024), ("2 t", 2 << 40), ("7b", 7)]
)
def test_size(text: str, count: int) -> None:
    assert inputs.size(text, "--x") == count


@pytest.mark.parametrize("text", ["", "m", "-1", "1.5g", "1x"])
def test_bad_size(text: str) -> None:
    refused(lambda: inputs.size(text, "--x"))


def test_ulimit_and_host() -> None:
    assert inputs.ulimit("nofile=10:20") == ("nofile", 10, 20)
    assert inputs.ulimit("nofile=10") == ("nofile", 10, 10)
    assert inputs.add_host("h:10.0.0.1") == ("h", "10.0.0.1")
    assert inputs.add_host("h=[::1]") == ("h", "::1")
    for act in (lambda: inputs.ulimit("nofile"), lambda: inputs.ulimit("nofile=a:b")):
        refused(act)
    for text in ("h", ":x", "h:"):
        refused(lambda text=text: inputs.add_host(text))  # type: ignore[misc]  # a default binds the loop's value


def test_dockerfile_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"FROM scratch\r\n# \xff\n"), encoding="utf-8"))
    assert inputs.dockerfile(tmp_path, "-")[1] == "FROM scratch\r\n# \udcff\n", "the bytes, whatever the locale"
    monkeypatch.setattr(sys, "stdin", None)
    refused(lambda: inputs.dockerfile(tmp_path, "-"))


@pytest.mark.parametrize("text", ["-", "https://example.com/x.git", "git@example.com:x", "none", "file", "", "dangling"])
def test_contexts_that_are_no_directory(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    refused(lambda: inputs.context_directory(text))
    assert inputs.context_directory(".") == Path()
