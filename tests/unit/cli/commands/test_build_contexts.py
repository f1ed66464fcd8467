"""Contexts that are no directory: standard input, git, http. Built without RUN, looked at in a tar of the result."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lamina.store.removal import remove
from lamina.testing.images import tar_of
from lamina.testing.tars import archive, hostile_tars, member

Lamina = Callable[..., Any]
FILES = {
    "Dockerfile": b"FROM scratch\nCOPY a /copied\n",
    ".dockerignore": b"a\n",
    "a": b"one\n",
    "other/Alt": b"FROM scratch\nCOPY . /all\n",
}


def zstd(data: bytes) -> bytes:
    made: bytes = import_module("compression.zstd" if __import__("sys").version_info >= (3, 14) else "backports.zstd").compress(data)
    return made


def content(data: bytes) -> dict[str, tuple[bytes, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {item.name: (tar.extractfile(item).read(), item.uid) for item in tar if item.isfile()}  # type: ignore[union-attr]  # files


@pytest.fixture
def made(lamina: Lamina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, tuple[bytes, int]]]:
    """Build with these arguments; the files of the result with their owners."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def call(*arguments: str, stdin: bytes = b"") -> dict[str, tuple[bytes, int]]:
        out = tmp_path / "out.tar"
        said = lamina("build", "-q", "--output", f"type=tar,dest={out}", *arguments, stdin=stdin)
        assert said.code == 0, said.err
        return content(out.read_bytes())

    return call


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd])
def test_archive_on_standard_input(made: Callable[..., Any], pack: Callable[[bytes], bytes]) -> None:
    assert made("-", stdin=pack(tar_of(FILES))) == {"copied": (b"one\n", 0)}


def test_file_names_the_dockerfile_inside(made: Callable[..., Any]) -> None:
    found = made("-f", "other/Alt", "-", stdin=tar_of(FILES))
    assert found["all/a"] == (b"one\n", 0), "an ignore file of a remote context is a file like others, as in BuildKit"
    assert "all/.dockerignore" in found


def test_owners_of_an_archive_are_kept(made: Callable[..., Any]) -> None:
    data = archive([member("Dockerfile", FILES["Dockerfile"]), member("a", b"x", uid=1234)])
    assert made("-", stdin=data) == {"copied": (b"x", 1234)}


def test_dockerfile_on_standard_input_has_no_context(made: Callable[..., Any], lamina: Lamina) -> None:
    assert made("-", stdin=b"FROM scratch\nCOPY <<eof /x\nhi\neof\n") == {"x": (b"hi\n", 0)}
    said = lamina("build", "-", stdin=b"FROM scratch\nCOPY a /\n")
    assert said.code == 66
    assert "does not exist" in said.err
    assert "Traceback" not in said.err


def test_the_same_archive_hits_again(lamina: Lamina) -> None:
    assert lamina("build", "-q", "-", stdin=tar_of(FILES)).code == 0
    assert lamina("plan", "-", stdin=gzip.compress(tar_of(FILES))).code == 0
    changed = lamina("plan", "-", stdin=tar_of({**FILES, "a": b"two\n"}))
    assert changed.code == 3
    assert "MISS" in changed.out


@pytest.mark.parametrize(
    ("arguments", "stdin", "word"),
    [
        (("-f", "-", "-"), b"FROM scratch\n", "both"),
        (("-f", "D", "-"), b"FROM scratch\n", "names another"),
        (("-f", "Dockerfil", "-"), tar_of(FILES), "did you mean Dockerfile?"),
        (("-",), tar_of({"a": b""}), "there is no Dockerfile"),
        (("-",), gzip.compress(tar_of(FILES), mtime=0)[:60], "cannot unpack"),
        (("-",), b"\x1f\x8b\x08" + b"x" * 900, "cannot unpack"),
        (("-",), tar_of({"Dockerfile": "/etc/passwd"}), "there is no Dockerfile"),
        (("-",), tar_of({"Dockerfile": b"\0" * 9}), "neither an archive nor a Dockerfile"),
        (("-",), b"", "no instruction"),
        (("ftp://host/x",), b"", "there is no directory"),
        (("ssh://-oProxyCommand=x/r",), b"", "git"),
    ],
    ids=lambda value: f"{len(value)}-bytes" if isinstance(value, bytes) else None,
)
def test_refused_in_a_line(lamina: Lamina, arguments: tuple[str, ...], stdin: bytes, word: str) -> None:
    said = lamina("build", *arguments, stdin=stdin)
    assert said.code != 0
    assert word in said.err
    assert "Traceback" not in said.err


@pytest.fixture
def swept(tmp_path: Path) -> Iterator[None]:
    """pytest's own way to remove folders is not for such deep ones."""
    yield
    for path in tmp_path.iterdir():
        if path.is_dir():
            remove(path)


def test_folders_may_be_as_deep_as_a_path_can_be(lamina: Lamina, swept: None) -> None:
    """From some 900 levels on a build ended with "nested too deeply", and its unpacked context was left behind."""
    data = archive([member("Dockerfile", b"FROM scratch\nCOPY . /x\n"), member("/".join(["d"] * 1900) + "/f", b"x")])
    said = lamina("build", "-", stdin=data)
    assert said.code == 0, said.err
    assert lamina("check").code == 0


def test_folders_that_no_layer_can_hold_are_one_line(lamina: Lamina, swept: None) -> None:
    data = archive([member("Dockerfile", b"FROM scratch\nCOPY . /x\n"), member("/".join(["d"] * 2046) + "/f", b"x")])
    said = lamina("build", "-", stdin=data)
    assert said.code not in (0, 70)
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) < 8
    assert lamina("check").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="some of the tars hold devices, which only root makes")
@pytest.mark.root
def test_hostile_archives_stay_inside(lamina: Lamina, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"untouched")
    for hostile in hostile_tars(str(outside)):
        data = member("Dockerfile", b"FROM scratch\nCOPY . /\n") + hostile.data
        said = lamina("build", "-q", "-", stdin=data)
        assert "Traceback" not in said.err, hostile.name
        assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("file", b"untouched")], hostile.name
    assert lamina("check").code == 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which it is served."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_http(made: Callable[..., Any], lamina: Lamina, site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "ctx.tar.gz").write_bytes(gzip.compress(tar_of(FILES)))
    (folder / "Dockerfile").write_bytes(b"FROM scratch\nCOPY <<eof /x\nhi\neof\n")
    assert made(f"{url}/ctx.tar.gz") == {"copied": (b"one\n", 0)}
    assert "all/a" in made("-f", "other/Alt", f"{url}/ctx.tar.gz")
    assert made("-f", "-", f"{url}/ctx.tar.gz", stdin=b"FROM scratch\nCOPY a /mine\n") == {"mine": (b"one\n", 0)}
    assert made(f"{url}/Dockerfile") == {"x": (b"hi\n", 0)}
    said = lamina("build", f"{url}/none?token=hidden")
    assert said.code == 69
    assert "404" in said.err
    assert "hidden" not in said.err


def git(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_git(made: Callable[..., Any], lamina: Lamina, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    for name, data in FILES.items():
        path = repository / "service" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (repository / "Dockerfile").write_bytes(b"FROM scratch\nCOPY . /\n")
    git(repository, "init", "-q", "-b", "main")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "one")
    first = git(repository, "rev-parse", "HEAD")
    url = repository.as_uri()
    before = os.umask(0o077)
    try:
        assert made(f"{url}#main:service") == {"copied": (b"one\n", 0)}
    finally:
        os.umask(before)
    assert lamina("plan", f"{url}#{first}:service").code == 0, "a commit is the same files under any umask"
    assert not any(name.startswith(".git/") for name in made(url))
    assert any(name.startswith(".git/") for name in made("--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", url))
    (repository / "service/a").write_text("two\n")
    git(repository, "commit", "-qam", "two")
    assert lamina("plan", f"{url}#main:service").code == 3
    assert lamina("plan", f"{url}#{first}:service").code == 0
    said = lamina("build", f"{url}#none")
    assert said.code == 69
    assert "no reference 'none'" in said.err


def test_named_context_behind_a_url(made: Callable[..., Any], site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "parts.tar").write_bytes(tar_of({"p": b"part"}))
    found = made("--build-context", f"parts={url}/parts.tar", "-", stdin=b"FROM scratch\nCOPY --from=parts /p /q\n")
    assert found == {"q": (b"part", 0)}


def test_an_archive_that_is_far_larger_than_it_looks_is_refused(lamina: Lamina, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.layer.unpacking._FREE", 1 << 20)
    packed = gzip.compress(tar_of({"Dockerfile": b"FROM scratch\nCOPY . /\n", "zeros": bytes(4 << 20)}))
    said = lamina("build", "-q", "-", stdin=packed)
    assert said.code != 0
    assert said.err.splitlines()[0].endswith("the archive is refused: unpacked it is more than 1 MB, far more than its size says")
    assert len(said.err.splitlines()) == 1
    monkeypatch.setattr("lamina.layer.unpacking._RATIO", 1 << 20)
    assert lamina("build", "-q", "-", stdin=packed).code == 0
