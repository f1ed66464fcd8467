"""Which stages stand on what and take files from where, as it is kept of a build."""

from __future__ import annotations

import pytest

from lamina.dockerfile import parse
from lamina.dockerfile.lower import Lowered, Needs, Options, ResolvedBase, lower
from lamina.engine.freshness.origins import StageUse, content_of, stages_of
from lamina.oci.config import ContainerConfig, History, ImageConfig, RootFs
from lamina.oci.digest import DiffId, sha256
from lamina.oci.platform import Platform

DEBIAN, ALPINE = "docker.io/library/debian:12", "docker.io/library/alpine:3"


def lowered(text: str) -> Lowered:
    bases: dict[tuple[str, Platform], ResolvedBase] = {}
    while True:
        found = lower(parse(text, "Dockerfile"), Options(), bases)
        if isinstance(found, Lowered):
            return found
        assert isinstance(found, Needs)
        for key in found.references:
            config = ImageConfig(os="linux", architecture="amd64", rootfs=RootFs(diff_ids=(DiffId(sha256(key[0].encode())),)))
            bases[key] = ResolvedBase(key[0], sha256(b"m" + key[0].encode()), config)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("FROM debian:12\nRUN a\n", [StageUse("0", DEBIAN)]),
        ("FROM scratch\nCOPY a /\n", [StageUse("0", contexts=("context",))]),
        ("FROM debian:12\nLABEL a=b\n", [StageUse("0", DEBIAN)]),
        (
            "FROM debian:12 AS one\nRUN a\nFROM one AS two\nRUN b\nFROM scratch\nCOPY --from=two /x /x\nCOPY --from=alpine:3 /y /y\n",
            [StageUse("one", DEBIAN), StageUse("two", "one", on_stage=True), StageUse("2", None, copies=("two", ALPINE))],
        ),
        (
            "FROM debian:12 AS settings\nENV A=b\nFROM settings\nRUN --mount=from=alpine:3,target=/m b\n",
            [StageUse("settings", DEBIAN), StageUse("1", "settings", on_stage=True, copies=(ALPINE,))],
        ),
        ("ARG V=12\nFROM debian:$V\nRUN a\n", [StageUse("0", DEBIAN)]),
        ("ARG V=12\nFROM debian:$V\nLABEL a=b\n", [StageUse("0", DEBIAN)]),
        ("FROM --platform=linux/amd64 debian:12 AS unused\nRUN a\nFROM alpine:3\nRUN b\n", [StageUse("1", ALPINE)]),
        ("FROM debian:12 AS one\nRUN a\nFROM one\nCOPY --link b /\n", [StageUse("one", DEBIAN), StageUse("1", "one", on_stage=True, contexts=("context",))]),
        (
            "# syntax=x\nFROM scratch\nADD https://h.example/a.gz?s=x /\nADD https://h.example/r.git#v1 /r\n# lamina: watch=https://h.example/w\nRUN a\n",
            [StageUse("0", remotes=("https://h.example/a.gz?sha256:c2849f367131ab85", "https://h.example/r.git#v1", "https://h.example/w"))],
        ),
        ("FROM debian:12 AS one\nLABEL a=b\nFROM one AS two\nLABEL a=c\nFROM two\nRUN a\n", [
            StageUse("one", DEBIAN), StageUse("two", "one", on_stage=True), StageUse("2", "two", on_stage=True),
        ]),
    ],
)  # fmt: skip
def test_stages(text: str, stages: list[StageUse]) -> None:
    assert list(stages_of(lowered(text))) == stages


def test_content_is_layers_and_settings() -> None:
    one = ImageConfig(os="linux", architecture="amd64", config=ContainerConfig(env=("A=b",)))
    again = ImageConfig(
        os="linux", architecture="amd64", created="2026-01-01T00:00:00Z", history=(History(),), config=ContainerConfig(env=("A=b",))
    )
    assert content_of(one) == content_of(again)
    assert content_of(one) != content_of(ImageConfig(os="linux", architecture="amd64", config=ContainerConfig(env=("A=c",))))
    assert content_of(one) != content_of(ImageConfig(os="linux", architecture="arm64", config=ContainerConfig(env=("A=b",))))
