"""Names as docker reads them (distribution/reference: normalize_test.go holds the same rules)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.diagnostics.errors import LaminaError
from lamina.oci.digest import InvalidDigest
from lamina.oci.reference import InvalidReference, Reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian", "debian"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("docker.io/debian", "docker.io/library/debian", "debian"),
        ("index.docker.io/library/debian", "docker.io/library/debian", "debian"),
        ("library/debian", "docker.io/library/debian", "debian"),
        ("team/app:1", "docker.io/team/app:1", "team/app:1"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("LOCAL/app", "LOCAL/app", "LOCAL/app"),
        ("local:5000/app", "local:5000/app", "local:5000/app"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("registry.example/a/b-c__d.e:V1.2-x", "registry.example/a/b-c__d.e:V1.2-x", "registry.example/a/b-c__d.e:V1.2-x"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}", f"debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}", f"debian:12@{DIGEST}"),
        ("a--b", "docker.io/library/a--b", "a--b"),
    ],
)
def test_normalised_and_familiar(text: str, full: str, familiar: str) -> None:
    found = Reference.parse(text)
    assert str(found) == full
    assert found.familiar == familiar
    assert Reference.parse(found.familiar) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":tag",
        "a:",
        "a/",
        "/a",
        "a//b",
        "-a",
        "a_",
        "a___b",
        "a..b",
        "a b",
        "Debian",
        "team/App",
        "registry.example/App",
        "a:-x",
        "a:" + "t" * 129,
        "debian:12\n",
        "debian\n",
        "a" * 256,
        "ab" * 32,
        "https://registry.example/app",
        "a@b",
        "a:1:2",
        "é",
        "a:é",
        "registry.example:port/app",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


@pytest.mark.parametrize("digest", ["sha256:" + "AB" * 32, "sha256:" + "ab" * 31, "md5:" + "ab" * 16, f"{DIGEST}\n"])
def test_refused_digest(digest: str) -> None:
    with pytest.raises((InvalidDigest, InvalidReference)):
        Reference.parse(f"debian@{digest}")


def test_upper_case_says_what_to_write() -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("Team/App:V1")
    assert caught.value.hint == "did you mean team/app:V1?"


def test_default_tag_only_when_asked() -> None:
    assert Reference.parse("debian").tag is None
    assert Reference.parse("debian").with_default_tag().tag == "latest"
    assert Reference.parse(f"debian@{DIGEST}").with_default_tag().tag is None
    assert Reference.parse("debian:12").with_default_tag().tag == "12"


def test_length_does_not_count_the_registry() -> None:
    assert Reference.parse("registry.example/" + "a" * 255).repository == "a" * 255
    with pytest.raises(InvalidReference, match="255"):
        Reference.parse("registry.example/" + "a" * 256)


@given(st.text(alphabet="aZ0/:@.-_[]\n é", max_size=30))
def test_what_parses_is_stable(text: str) -> None:
    try:
        found = Reference.parse(text)
    except LaminaError:
        return
    assert Reference.parse(str(found)) == found
    assert Reference.parse(found.familiar) == found
