"""Which Dockerfile and which ignore file."""

from __future__ import annotations

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
