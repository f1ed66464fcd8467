from __future__ import annotations

import base64
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.registry.auth import Credentials
from lamina.registry.credentialprograms import CredentialProgram, CredentialProgramFailed
from lamina.registry.logins import BadLoginFile, LentLogins, Logins, lend, log_in, log_out, login_files

HUB = "https://index.docker.io/v1/"


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(file: Path, document: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def found(file: Path, registry: str, repository: str = "team/app") -> tuple[str, str, str] | None:
    got = Logins([file]).credentials(registry, repository)
    return None if got is None else (got.username, got.password, got.identity_token)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker-credential-test keeps each server's login in a file and notes its arguments and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-credential-test"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import sys, os, json, pathlib\n"
        f"home = pathlib.Path({str(tmp_path / 'kept')!r}); home.mkdir(exist_ok=True)\n"
        "text = sys.stdin.read()\n"
        "(home / 'log').open('a').write(json.dumps([sys.argv[1:], dict(os.environ)]) + '\\n')\n"
        "if sys.argv[1] == 'store':\n"
        "    document = json.loads(text); (home / document['ServerURL'].replace('/', '_')).write_text(text); sys.exit(0)\n"
        "file = home / text.replace('/', '_')\n"
        "if not file.exists():\n"
        "    print('credentials not found in native keychain'); sys.exit(1)\n"
        "if sys.argv[1] == 'erase': file.unlink()\n"
        "else: print(file.read_text())\n"
    )
    program.chmod(0o755)
    for name, text in {"broken": "echo s3cret; exit 3", "odd": "echo '[1]'"}.items():
        other = folder / f"docker-credential-{name}"
        other.write_text(f"#!/bin/sh\n{text}\n")
        other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "kept"


def test_where_logins_stand(tmp_path: Path) -> None:
    assert login_files({"HOME": "/h"}) == (Path("/h/.docker/config.json"), Path("/h/.config/containers/auth.json"))
    every = {"HOME": "/h", "DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/a", "XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c"}
    assert [str(p) for p in login_files(every)] == ["/a", "/d/config.json", "/r/containers/auth.json", "/c/containers/auth.json"]


@pytest.mark.parametrize(
    "key", ["r.example", "https://r.example", "https://r.example/", "http://r.example/v1/", "https://r.example/v2/", "r.example/team"]
)
def test_keys_of_auths(tmp_path: Path, key: str) -> None:
    file = write(tmp_path / "config.json", {"auths": {"other.example": auth("o", "o"), key: auth("me", "a:b")}})
    assert found(file, "r.example") == ("me", "a:b", "")
    assert found(file, "r.example.evil") is None
    assert found(file, "example") is None


def test_the_longest_path_wins(tmp_path: Path) -> None:
    file = write(tmp_path / "auth.json", {"auths": {"r.example": auth("all", "1"), "r.example/team/app": auth("app", "2")}})
    assert found(file, "r.example", "team/app") == ("app", "2", "")
    assert found(file, "r.example", "team/application") == ("all", "1", "")
    assert found(file, "r.example", "") == ("all", "1", "")


@pytest.mark.parametrize("key", [HUB, "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(tmp_path: Path, key: str) -> None:
    assert found(write(tmp_path / "c", {"auths": {key: auth("me", "x")}}), "docker.io") == ("me", "x", "")


def test_other_forms(tmp_path: Path) -> None:
    document = {
        "auths": {
            "a.example": {"username": "u", "password": "p"},
            "b.example": {**auth("00000000-0000-0000-0000-000000000000", ""), "identitytoken": "tok"},
            "c.example": auth("<token>", "tok"),
            "d.example": {},
            "e.example": {"auth": "!!!"},
            "f.example": 7,
        }
    }
    file = write(tmp_path / "c", document)
    assert found(file, "a.example") == ("u", "p", "")
    assert found(file, "b.example") == found(file, "c.example") == ("", "", "tok")
    assert [found(file, f"{name}.example") for name in "def"] == [None, None, None]


def test_the_first_file_that_knows(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"auths": {"a.example": auth("one", "1")}})
    two = write(tmp_path / "2", {"auths": {"a.example": auth("two", "2"), "b.example": auth("two", "2")}})
    logins = Logins([tmp_path / "none", one, two])
    assert [logins.credentials(name, "x").username for name in ("a.example", "b.example")] == ["one", "two"]  # type: ignore[union-attr]  # both are there
    assert Logins([]).credentials("a.example", "x") is None


@pytest.mark.parametrize("text", ["{", "[]", "7", "\xff"])
def test_unreadable_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadLoginFile, match=r"config\.json"):
        found(tmp_path / "config.json", "r.example")


@pytest.mark.parametrize("document", [{}, {"auths": None}, {"auths": []}, {"credHelpers": 1, "credsStore": 2}])
def test_strange_files_know_nobody(tmp_path: Path, document: object) -> None:
    assert found(write(tmp_path / "c", document), "r.example") is None


def test_programs(tmp_path: Path, programs: Path) -> None:
    CredentialProgram("test").store("r.example", "me", "s3cret")
    file = write(tmp_path / "c", {"credHelpers": {"r.example": "test"}, "auths": {"q.example": auth("q", "q")}})
    assert found(file, "r.example") == ("me", "s3cret", "")
    assert found(file, "q.example") == ("q", "q", "")
    store = write(tmp_path / "d", {"credsStore": "test", "auths": {"q.example": auth("q", "q")}})
    assert found(store, "r.example") == ("me", "s3cret", "")
    assert found(store, "q.example") == ("q", "q", ""), "what the program does not know may stand in the file"
    CredentialProgram("test").store(HUB, "<token>", "s3cret-token")
    assert found(store, "docker.io") == ("", "", "s3cret-token")
    assert "s3cret" not in (programs / "log").read_text(), "no secret in argv or environment"


def test_a_program_is_asked_once(tmp_path: Path, programs: Path) -> None:
    CredentialProgram("test").store("r.example", "me", "s3cret")
    logins = Logins([write(tmp_path / "c", {"credsStore": "test"})])
    before = len((programs / "log").read_text().splitlines())
    for name in ("a", "b", "c"):
        assert logins.credentials("r.example", name) is not None
    assert len((programs / "log").read_text().splitlines()) == before + 1


@pytest.mark.parametrize(
    ("name", "said"), [("broken", "ended with 3"), ("odd", "something else"), ("none", "not installed"), ("../../bin/sh", "not the name")]
)
def test_programs_that_fail(tmp_path: Path, programs: Path, name: str, said: str) -> None:
    with pytest.raises(CredentialProgramFailed, match=said) as caught:
        found(write(tmp_path / "c", {"credsStore": name}), "r.example")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


def test_login_and_logout(tmp_path: Path) -> None:
    file = write(tmp_path / "docker" / "config.json", {"HttpHeaders": {"X": "1"}, "auths": {"b.example": auth("b", "b")}})
    assert log_in(file, "r.example", Credentials("me", "s3cret")) is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert found(file, "r.example") == ("me", "s3cret", "")
    assert found(file, "b.example") == ("b", "b", "")
    assert json.loads(file.read_text())["HttpHeaders"] == {"X": "1"}
    log_in(file, "docker.io", Credentials("hub", "x"))
    assert HUB in json.loads(file.read_text())["auths"]
    assert log_out(file, "r.example")
    assert not log_out(file, "r.example")
    assert found(file, "r.example") is None
    assert log_out(file, "docker.io")
    assert os.listdir(file.parent) == ["config.json"]


def test_login_where_there_is_no_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "config.json"
    log_in(file, "r.example", Credentials("me", "s3cret"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not log_out(tmp_path / "other" / "config.json", "r.example")


def test_logins_at_once_all_stay(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log_in(file, f"r{number}.example", Credentials("me", "x")), range(24)))
    assert len(json.loads(file.read_text())["auths"]) == 24


def test_a_linked_file_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real.json", {})
    (tmp_path / "config.json").symlink_to("real.json")
    log_in(tmp_path / "config.json", "r.example", Credentials("me", "s3cret"))
    assert (tmp_path / "config.json").is_symlink()
    assert found(tmp_path / "real.json", "r.example") is not None


def test_login_with_a_program(tmp_path: Path, programs: Path) -> None:
    file = write(tmp_path / "config.json", {"credsStore": "test"})
    assert log_in(file, "r.example", Credentials("me", "s3cret")) == "test"
    assert "s3cret" not in file.read_text()
    assert found(file, "r.example") == ("me", "s3cret", "")
    assert log_out(file, "r.example")
    assert found(file, "r.example") is None


def test_a_login_that_cannot_be_kept(tmp_path: Path, programs: Path) -> None:
    file = write(tmp_path / "config.json", {"credsStore": "broken"})
    with pytest.raises(CredentialProgramFailed, match="not kept"):
        log_in(file, "r.example", Credentials("me", "s3cret"))
    assert json.loads(file.read_text()) == {"credsStore": "broken"}
    (tmp_path / "file").write_text("")
    with pytest.raises(BadLoginFile, match="cannot write"):
        log_in(tmp_path / "file" / "config.json", "r.example", Credentials("me", "s3cret"))


def test_lent_logins_come_before_a_machine_s_own(tmp_path: Path) -> None:
    own = Logins([write(tmp_path / "config.json", {"auths": {"a.example": auth("own", "x"), "b.example": auth("own", "y")}})])
    lent = LentLogins(lend({"a.example": Credentials("lent", "p"), "c.example": Credentials("", "", "token")}), own)

    def found(registry: str) -> tuple[str, str, str] | None:
        one = lent.credentials(registry, "r")
        return None if one is None else (one.username, one.password, one.identity_token)

    assert found("a.example") == ("lent", "p", "")
    assert found("b.example") == ("own", "y", "")
    assert found("c.example") == ("", "", "token")
    assert found("d.example") is None
    assert LentLogins("{}", None).credentials("a.example", "r") is None
