"""Secrets and agents of one build."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from lamina.engine.request import Secret
from lamina.engine.secrets import SECRET_LIMIT, Secrets, SecretUnavailable, agent_socket


def test_bytes_from_a_value_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "tok").write_bytes(b"\x00from a file")
    secrets = Secrets((Secret("v", value=b""), Secret("f", file=tmp_path / "tok")))
    assert secrets.read("v", required=True) == b"", "an empty secret is one"
    assert secrets.read("f", required=True) == b"\x00from a file"


def test_a_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    secrets = Secrets((Secret("f", file=tmp_path / "tok"),))
    (tmp_path / "tok").write_bytes(b"late")
    assert secrets.read("f", required=False) == b"late"


def test_one_that_was_not_given() -> None:
    secrets = Secrets((Secret("token", value=b"x"),))
    assert secrets.read("tokn", required=False) is None
    with pytest.raises(SecretUnavailable) as caught:
        secrets.read("tokn", required=True)
    assert caught.value.hint == "did you mean id=token?"
    with pytest.raises(SecretUnavailable) as caught:
        secrets.read("zzz", required=True)
    assert caught.value.hint == "give it with --secret id=zzz,src=FILE"


def test_one_whose_file_went_away_or_is_a_folder(tmp_path: Path) -> None:
    for file in (tmp_path / "gone", tmp_path):
        with pytest.raises(SecretUnavailable, match="cannot read"):
            Secrets((Secret("f", file=file),)).read("f", required=False)


def test_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * SECRET_LIMIT)
    assert len(Secrets((Secret("f", file=path),)).read("f", required=True) or b"") == SECRET_LIMIT
    path.write_bytes(b"x" * (SECRET_LIMIT + 1))
    with pytest.raises(SecretUnavailable, match="larger than 500 KiB"):
        Secrets((Secret("f", file=path),)).read("f", required=True)


def test_others_are_asked_of_who_has_more(tmp_path: Path) -> None:
    secrets = Secrets((Secret("v", value=b"own"),), {"v": b"other", "late": b"come", "big": bytes(SECRET_LIMIT + 1)}.get)
    assert secrets.read("v", required=True) == b"own"
    assert secrets.read("late", required=True) == b"come"
    assert secrets.read("absent", required=False) is None
    with pytest.raises(SecretUnavailable, match="required"):
        secrets.read("absent", required=True)
    with pytest.raises(SecretUnavailable, match="larger than 500 KiB"):
        secrets.read("big", required=False)


def test_a_secret_does_not_show_its_value() -> None:
    assert "hush" not in repr(Secret("v", value=b"hush"))
    assert "hush" not in repr((Secret("v", value=b"hush"),))


def test_an_agent_that_was_not_given() -> None:
    with agent_socket({}, "default", required=False) as path:
        assert path is None
    with pytest.raises(SecretUnavailable) as caught:
        agent_socket({}, "default", required=True).__enter__()
    assert "--ssh default=" in (caught.value.hint or "")


def test_an_agents_socket_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("agent")
        with agent_socket({"k": tmp_path / "agent"}, "k", required=True) as path:
            assert path == tmp_path / "agent"


def test_an_agent_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="cannot use"):
        agent_socket({"k": tmp_path / "gone"}, "k", required=False).__enter__()


def test_a_key_without_ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("key")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SecretUnavailable, match="ssh-agent is not installed"):
        agent_socket({"k": tmp_path / "key"}, "k", required=True).__enter__()


@pytest.mark.skipif(shutil.which("ssh-agent") is None or shutil.which("ssh-keygen") is None, reason="needs openssh-client")
def test_a_key_gets_an_agent_for_the_time_of_the_step(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "it", "-f", str(key)], check=True)
    with agent_socket({"k": key}, "k", required=True) as path:
        listed = subprocess.run(
            ["ssh-add", "-L"], env={"SSH_AUTH_SOCK": str(path), "PATH": os.defpath}, capture_output=True, text=True, check=True
        )
        assert listed.stdout.strip() == (tmp_path / "key.pub").read_text().strip()
    assert path is not None
    assert not path.exists()


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs openssh-client")
def test_a_file_that_is_no_key_is_refused_and_no_agent_stays(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key at all")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(SecretUnavailable, match="ssh-add refused") as caught:
        agent_socket({"k": tmp_path / "key"}, "k", required=True).__enter__()
    assert "no key at all" not in caught.value.message
    assert "['" not in caught.value.message
