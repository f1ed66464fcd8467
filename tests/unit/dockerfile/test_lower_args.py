"""ARG and ENV: who sees what, in which order, and what the history says."""

from __future__ import annotations

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile.lower import ArgUse, Options
from lamina.oci.platform import Platform
from lamina.testing.lowered import PATH, history, lowered, runs, step


def env(text: str, options: Options | None = None) -> list[str]:
    """The environment of the last RUN, without PATH."""
    return [line for line in runs(lowered(text, options))[-1].env if line != PATH]


def given(**args: str | None) -> Options:
    return Options(args=args)


@pytest.mark.parametrize(
    ("text", "options", "want"),
    [
        ("FROM x\nARG A\nRUN 1\n", given(), []),
        ("FROM x\nARG A=\nRUN 1\n", given(), ["A="]),
        ("FROM x\nARG A=d\nRUN 1\n", given(), ["A=d"]),
        ("FROM x\nARG A=d\nRUN 1\n", given(A="g"), ["A=g"]),
        ("FROM x\nARG A=d\nRUN 1\n", given(A=""), ["A="]),
        ("FROM x\nARG A=d\nRUN 1\n", given(A=None), ["A=d"]),
        ("FROM x\nARG A\nRUN 1\n", given(A="g"), ["A=g"]),
        ("FROM x\nRUN 1\n", given(A="g"), []),
        ("FROM x\nARG A=1 B=$A-2 C\nRUN 1\n", given(C="3"), ["A=1", "B=1-2", "C=3"]),
        ("FROM x\nRUN 1\nARG A=late\n", given(), []),
        ("ARG A=m\nFROM x\nRUN 1\n", given(), []),
        ("ARG A=m\nFROM x\nARG A\nRUN 1\n", given(), ["A=m"]),
        ("ARG A=m\nFROM x\nARG A=own\nRUN 1\n", given(), ["A=own"]),
        ("ARG A=m\nFROM x\nARG A\nRUN 1\n", given(A="g"), ["A=g"]),
        ("ARG A=m\nARG B=$A-b\nFROM x\nARG B\nRUN 1\n", given(A="g"), ["B=g-b"]),
        ("ARG A\nFROM x\nARG A\nRUN 1\n", given(), []),
        ("FROM x\nENV A=e\nARG A=a\nRUN 1\n", given(), ["A=a"]),
        ("FROM x\nARG A=a\nENV A=e\nRUN 1\n", given(), ["A=e"]),
        ("FROM x\nARG A=1\nENV B=$A\nARG A=2\nRUN 1\n", given(), ["B=1", "A=2"]),
        ("FROM x\nENV A=1 B=$A\nENV C=$A\nRUN 1\n", given(), ["A=1", "B=", "C=1"]),
        ("FROM x AS s\nARG A=1\nENV B=2\nFROM s\nRUN 1\n", given(), ["A=1", "B=2"]),
        ("FROM x AS s\nARG A=1\nFROM x\nRUN 1\n", given(), []),
        ("FROM x\nARG A=1\nARG A\nRUN 1\n", given(), ["A=1"]),
    ],
)
def test_environment(text: str, options: Options, want: list[str]) -> None:
    assert env(text, options) == want


def test_only_env_stands_in_the_image() -> None:
    assert lowered("FROM x\nARG A=1\nENV B=2\nENV A=3\nENV B=4\n").config.config.env == (PATH, "B=4", "A=3")


def test_history_shows_values_that_hold() -> None:
    text = "ARG M=m\nFROM x\nARG A=d\nARG B\nARG C\nARG M\nENV E='a b'\nRUN 1\n"
    assert history(lowered(text, given(A="g", C="c"))) == [
        "ARG A=g",
        "ARG B",
        "ARG C=c",
        "ARG M=m",
        "ENV E=a b",
        "RUN |4 A=g B= C=c M=m /bin/sh -c 1 # buildkit",
    ]


def test_a_given_argument_spares_its_default() -> None:
    text = "FROM x\nARG A=${NO:?gone}\nRUN 1\n"
    assert env(text, given(A="g")) == ["A=g"]
    with pytest.raises(LaminaError) as caught:
        lowered(text)
    assert caught.value.spans[0].line == 2


def test_arguments_of_the_stage_below_count_first() -> None:
    found = lowered("FROM x AS s\nARG A=1\nARG B=1\nFROM s\nARG C=3\nARG A=2\nRUN 1\n")
    assert history(found)[-1].startswith("RUN |3 A=2 B=1 C=3 ")


PLATFORMS = """ARG TARGETOS
FROM --platform=$BUILDPLATFORM x-$TARGETARCH
ARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDOS BUILDARCH TARGETSTAGE TARGETOS
RUN 1
"""


def test_platform_arguments() -> None:
    options = Options(platform=Platform("linux", "arm", "v7"), build_platform=Platform("linux", "amd64"))
    assert env(PLATFORMS, options) == [
        "TARGETPLATFORM=linux/arm/v7",
        "TARGETARCH=arm",
        "TARGETVARIANT=v7",
        "BUILDPLATFORM=linux/amd64",
        "BUILDOS=linux",
        "BUILDARCH=amd64",
        "TARGETSTAGE=default",
        "TARGETOS=linux",
    ]


@pytest.mark.parametrize("value", ["own", ""])
def test_platform_arguments_can_be_given(value: str) -> None:
    assert env("FROM x\nARG TARGETARCH\nRUN 1\n", given(TARGETARCH=value)) == [f"TARGETARCH={value}"]
    assert lowered("FROM x\n", given(TARGETARCH=value)).warnings == ()


def test_platform_arguments_are_not_there_unasked() -> None:
    assert env("FROM x\nENV A=$TARGETARCH\nRUN 1\n") == ["A="]


def test_target_stage() -> None:
    text = "FROM x AS One\nARG TARGETSTAGE\nRUN 1\nFROM x AS two\nARG TARGETSTAGE\nRUN 2\n"
    assert env(text) == ["TARGETSTAGE=two"]
    assert env(text, Options(target="ONE")) == ["TARGETSTAGE=one"]


# Proxies


def test_proxies_are_passed_on_outside_of_the_environment() -> None:
    (op,) = runs(lowered("FROM x\nRUN 1\n", given(Http_Proxy="p", NO_PROXY="n", ftp_proxy="")))
    assert op.env == (PATH,)
    assert op.proxy_env == ("HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n")


def test_a_declared_proxy_is_an_argument_like_any_other() -> None:
    (op,) = runs(lowered("FROM x\nARG HTTP_PROXY\nRUN 1\n", given(HTTP_PROXY="p")))
    assert op.env == (PATH, "HTTP_PROXY=p")
    assert op.proxy_env == ("http_proxy=p",)


def test_arguments_that_speak_to_the_builder() -> None:
    (op,) = runs(lowered("FROM x\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN 1\n", given(BUILDKIT_SANDBOX_HOSTNAME="h")))
    assert op.env == (PATH,)
    assert op.hostname == "h"


# What is said about arguments


def test_unused_arguments() -> None:
    options = given(A="1", B="2", C="3", HTTP_PROXY="p", BUILDKIT_SYNTAX="s", SOURCE_DATE_EPOCH="0")
    found = lowered("ARG B\nFROM x AS s\nARG C\nFROM y\nRUN 1\n", options)
    assert [warning.message for warning in found.warnings] == ["--build-arg A is declared by no ARG"]


def test_uses_of_arguments() -> None:
    text = "FROM x AS s\nARG SHA=1\nARG V=2\nRUN 1\nRUN echo ${V} $SHAM\nFROM s\nRUN <<E\necho $SHA\nE\nCOPY $V /\n"
    assert lowered(text).arg_uses == (ArgUse("SHA", 3, 1), ArgUse("V", 3, 1))


def test_scope_of_named_arguments() -> None:
    text = "FROM x\nENV B=env\nARG A=1 B=2\nRUN echo $A\nRUN echo $B\nRUN echo\n"
    ops = runs(lowered(text, Options(arg_scope="named")))
    assert [[line for line in op.env if line != PATH] for op in ops] == [["B=env", "A=1"], ["B=2"], ["B=env"]]
    assert [op.unnamed_args for op in ops] == [("B",), ("A",), ("A", "B")]
    assert ops[0].args_in_env == ("A", "B")


@pytest.mark.parametrize(
    ("line", "column"),
    [("ARG A=${NO:?gone}", 1), ("ENV A=${NO?gone}", 1), ("LABEL a=${NO?gone}", 1), ("WORKDIR ${NO?gone}", 1), ("COPY ${NO?gone} /", 1)],
)
def test_a_required_variable_that_is_unset(line: str, column: int) -> None:
    with pytest.raises(LaminaError) as caught:
        lowered(f"FROM x\n{line}\n")
    assert (caught.value.spans[0].line, caught.value.spans[0].column) == (2, column)
    assert "gone" in caught.value.message


def test_words_are_expanded_where_docker_expands_them() -> None:
    found = lowered("FROM x\nARG A=a\nUSER $A\nWORKDIR /$A\nVOLUME /$A\nEXPOSE ${E:-80}\nSTOPSIGNAL ${S:-9}\nLABEL $A=$A\nCMD $A\nRUN $A\n")
    config = found.config.config
    assert (config.user, config.working_dir, config.volumes, config.labels) == ("a", "/a", {"/a": {}}, {"a": "a"})
    assert (config.exposed_ports, config.stop_signal) == ({"80/tcp": {}}, "9")
    assert config.cmd == ("/bin/sh", "-c", "$A")
    assert step(found, "RUN").vertex is not None
    assert runs(found)[-1].args[-1] == "$A"
