"""Which Dockerfile and which ignore file."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from lamina.engine.contextfiles import NoDockerfile, read_dockerfile


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM a\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/Other").write_text("FROM b\n")
    return tmp_path


def test_the_default_and_a_given_one(context: Path) -> None:
    assert read_dockerfile(context, None) == ("Dockerfile", "FROM a\n", None, ".dockerignore")
    assert read_dockerfile(context, context / "sub/Other")[:2] == ("sub/Other", "FROM b\n")
    assert read_dockerfile(context / "sub", context / "Dockerfile")[0] == "Dockerfile", "outside of the context: its base name"


def test_its_own_ignore_file_goes_first(context: Path) -> None:
    (context / ".dockerignore").write_text("all\n")
    assert read_dockerfile(context, context / "sub/Other")[2:] == ("all\n", ".dockerignore")
    (context / "sub/Other.dockerignore").write_text("own\n")
    assert read_dockerfile(context, context / "sub/Other")[2:] == ("own\n", "Other.dockerignore")
    assert read_dockerfile(context, None)[2:] == ("all\n", ".dockerignore")
    (context / "sub/Other.dockerignore").write_text("")
    assert read_dockerfile(context, context / "sub/Other")[2] == "", "an empty one counts"


def test_text_from_standard_input(context: Path) -> None:
    (context / ".dockerignore").write_text("all\n")
    (context / "Dockerfile.dockerignore").write_text("of another file\n")
    assert read_dockerfile(context, None, "FROM c\n") == ("<stdin>", "FROM c\n", "all\n", ".dockerignore")


def test_bytes_that_are_no_utf8_come_through(context: Path) -> None:
    (context / "Dockerfile").write_bytes(b"FROM a\nRUN echo \xff\n")
    assert read_dockerfile(context, None)[1].encode("utf-8", "surrogateescape") == b"FROM a\nRUN echo \xff\n"


def test_mistakes(context: Path) -> None:
    with pytest.raises(NoDockerfile) as caught:
        read_dockerfile(context, context / "Dockerfil")
    assert caught.value.hint == "did you mean Dockerfile?"
    with pytest.raises(NoDockerfile) as caught:
        read_dockerfile(context, context / "none/zzz")
    assert caught.value.hint == "name it with -f FILE"
    with pytest.raises(NoDockerfile, match="is a folder"):
        read_dockerfile(context, context / "sub")


def test_what_is_no_dockerfile(context: Path) -> None:
    (context / "wide").write_text("FROM a\n", encoding="utf-16")
    with pytest.raises(NoDockerfile, match="is no Dockerfile: it has bytes that no text has") as caught:
        read_dockerfile(context, context / "wide")
    assert caught.value.hint == "it is in UTF-16: save it in UTF-8"
    with pytest.raises(NoDockerfile, match="larger than 16 MiB"):
        read_dockerfile(context, Path("/dev/zero"))
    (context / "dangling").symlink_to("nowhere")
    with pytest.raises(NoDockerfile, match="dangling is a link to nowhere, which is not there"):
        read_dockerfile(context, context / "dangling")
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(context):
        made.bind("sock")
        with pytest.raises(NoDockerfile, match="is a socket, not a Dockerfile"):
            read_dockerfile(context, context / "sock")
