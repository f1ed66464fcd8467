"""FROM, targets, stages that need stages, names of images, ONBUILD."""

from __future__ import annotations

import pytest

from lamina.diagnostics.errors import LaminaError
from lamina.dockerfile import parse
from lamina.dockerfile.lower import LoweringError, Needs, Options, lower
from lamina.graph.ops import ContextOp, ExecOp, FileOp, ImageOp
from lamina.graph.vertex import walk
from lamina.oci.config import ContainerConfig
from lamina.oci.platform import Platform
from lamina.testing.lowered import PATH, STUB, history, lowered, runs, step, vertices

ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")


def references(text: str, options: Options | None = None, images: dict[str, ContainerConfig] | None = None) -> list[tuple[str, Platform]]:
    found = lowered(text, options, images)
    ops = [vertex.op for vertex in walk((found.target,))]
    return [(op.reference, op.platform) for op in ops if isinstance(op, ImageOp)]


def commands(text: str, options: Options | None = None, images: dict[str, ContainerConfig] | None = None) -> list[str]:
    return [op.args[-1] for op in runs(lowered(text, options, images))]


def refused(text: str, options: Options | None = None, images: dict[str, ContainerConfig] | None = None) -> LaminaError:
    with pytest.raises(LaminaError) as caught:
        lowered(text, options, images)
    assert caught.value.spans, caught.value.message
    return caught.value


def test_it_asks_for_what_the_target_reaches_and_nothing_else() -> None:
    document = parse("FROM a AS one\nFROM b AS two\nCOPY --from=c /x /\nCOPY --from=one /x /\nFROM d\nRUN --mount=from=e true\n")
    two = lower(document, Options(target="two"), {})
    assert two == Needs(frozenset((f"docker.io/library/{name}:latest", AMD) for name in "abc"))
    last = lower(document, Options(), {})
    assert last == Needs(frozenset((f"docker.io/library/{name}:latest", AMD) for name in "de"))


@pytest.mark.parametrize(("target", "want"), [(None, "c"), ("", "c"), ("one", "a"), ("ONE", "a"), ("0", "a"), ("1", "b"), ("Two", "b")])
def test_target_by_name_or_number(target: str | None, want: str) -> None:
    assert commands("FROM x AS one\nRUN a\nFROM x AS two\nRUN b\nFROM x\nRUN c\n", Options(target=target)) == [want]


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(LoweringError) as caught:
        lowered("FROM x AS builder\nFROM y AS release\n", Options(target="bulider"))
    assert caught.value.hint == "did you mean 'builder'?"


def test_the_last_stage_of_a_name_holds() -> None:
    assert commands("FROM x AS a\nRUN 1\nFROM x AS a\nRUN 2\nFROM a\n") == ["2"]


def test_a_stage_named_like_an_image_is_used_only_below() -> None:
    assert references("FROM debian AS debian\nRUN 1\nFROM debian\n") == [("docker.io/library/debian:latest", AMD)]


def test_steps_of_stages_that_are_not_needed() -> None:
    found = lowered("ARG G=1\nFROM x AS a\nRUN 1\nFROM x\nRUN 2\n")
    assert [(row.kind, row.needed, row.vertex is not None) for row in found.steps] == [
        ("ARG", True, False),
        ("FROM", False, False),
        ("RUN", False, False),
        ("FROM", True, False),
        ("RUN", True, True),
    ]
    assert [row.step.line for row in found.steps] == [1, 2, 3, 4, 5]


def test_equal_instructions_are_one_vertex_with_both_steps() -> None:
    found = lowered("FROM x AS a\nRUN same\nFROM x AS b\nRUN same\nFROM scratch\nCOPY --from=a /1 /\nCOPY --from=b /2 /\n")
    (vertex,) = vertices(found, ExecOp)
    assert [s.stage for s in vertex.steps] == [0, 1]


def test_names_of_steps() -> None:
    found = lowered("FROM x AS a\nENV A=1\nRUN 1\nWORKDIR /w\nFROM a\nCOPY b \\\n c/\n")
    names = [vertex.name for vertex in walk((found.target,)) if vertex.steps]
    assert names == ["[a 2/3] RUN 1", "[a 3/3] WORKDIR /w", "[stage-1 1/1] COPY b  c/"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM x AS a\nCOPY --from=a /x /\n", 2),
        ("FROM x AS a\nRUN 1\nCOPY --from=b /x /\nFROM x AS b\nCOPY --from=a /x /\n", 5),
        ("FROM x AS a\nRUN --mount=from=b true\nFROM a AS b\n", 3),
    ],
)
def test_circles(text: str, line: int) -> None:
    error = refused(text)
    assert "circular" in error.message
    assert error.spans[0].line == line


@pytest.mark.parametrize("instruction", ["COPY --from=later /x /", "COPY --from=1 /x /", "RUN --mount=from=later,target=/m true"])
def test_files_come_only_from_stages_above(instruction: str) -> None:
    error = refused(f"FROM x AS first\n{instruction}\nFROM x AS later\nRUN 1\nFROM first\n")
    assert "stands below" in error.message
    assert error.spans[0].line == 2


@pytest.mark.parametrize("number", ["2", "-1", "99999999"])
def test_a_stage_number_that_is_none(number: str) -> None:
    assert refused(f"FROM x\nFROM y\nCOPY --from={number} /x /\n").spans[0].line == 3


def test_from_by_number_name_and_image() -> None:
    text = "FROM x AS One\nRUN 1\nFROM y\nRUN 2\nFROM scratch\nCOPY --from=0 /a /\nCOPY --from=ONE /a /\nCOPY --from=1 /a /\nCOPY --from=z:3 /a /\n"
    assert commands(text) == ["1", "2"]
    assert references(text)[-1] == ("docker.io/library/z:3", AMD)


def test_a_digit_is_an_image_for_a_mount() -> None:
    assert ("docker.io/library/0:latest", AMD) in references("FROM x\nRUN 1\nFROM y\nRUN --mount=from=0,target=/m true\n")


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("FROM $NO", 1),
        ("FROM BAD", 1),
        ("FROM --platform=$NO x", 1),
        ("FROM --platform=nowhere x", 1),
        ("FROM x:y:z", 1),
        ("FROM ${NO:?gone}", 1),
    ],
)
def test_bad_from(line: str, number: int) -> None:
    assert refused(f"{line}\nRUN 1\n").spans[0].line == number


@pytest.mark.parametrize("instruction", ["COPY --from=BAD:: /x /", "RUN --mount=from=BAD:: true"])
def test_names_are_looked_at_in_every_stage(instruction: str) -> None:
    assert refused(f"FROM x\n{instruction}\nFROM y\n").spans[0].line == 2


def test_scratch_is_nothing() -> None:
    found = lowered("FROM scratch\nENV A=1\n")
    assert found.target is None
    assert found.config.config == ContainerConfig(env=(PATH, "A=1"), working_dir="/")


@pytest.mark.parametrize("text", ["FROM x\nCOPY --from=scratch / /e/\n", "FROM x\nRUN --mount=from=scratch,target=/e true\n"])
def test_scratch_as_a_source_asks_for_no_image(text: str) -> None:
    assert references(text) == [("docker.io/library/x:latest", AMD)]


# Platforms


def test_foreign_files_are_of_the_targets_platform() -> None:
    options = Options(platform=ARM)
    text = "FROM --platform=$BUILDPLATFORM x\nCOPY --from=tool /t /\nRUN --mount=from=other,target=/o true\n"
    assert references(text, options) == [
        ("docker.io/library/x:latest", AMD),
        ("docker.io/library/tool:latest", ARM),
        ("docker.io/library/other:latest", ARM),
    ]


def test_a_stage_has_the_platform_of_the_stage_below() -> None:
    found = lowered("FROM --platform=linux/arm64 x AS a\nFROM --platform=linux/s390x a\nRUN 1\n")
    assert runs(found)[0].platform == ARM
    assert found.config.architecture == "arm64"


def test_scratch_has_the_targets_platform() -> None:
    assert lowered("FROM --platform=linux/s390x scratch\n", Options(platform=ARM)).config.architecture == "arm64"


def test_a_requested_platform_is_what_the_image_says() -> None:
    text = "FROM --platform=linux/arm/v6 x\n"
    mine = lowered(text).config
    assert (mine.architecture, mine.variant) == ("arm", "v6")
    asked = lowered(text, Options(platform=ARM, platform_given=True)).config
    assert (asked.architecture, asked.variant) == ("arm64", "")


# The image that a stage begins with


def test_path_is_added_where_it_is_missing() -> None:
    images = {"docker.io/library/x:latest": ContainerConfig(env=("A=1",))}
    found = lowered("FROM x\nRUN 1\n", images=images)
    assert found.config.config.env == ("A=1", PATH)
    assert runs(found)[0].env == ("A=1", PATH)
    assert lowered("FROM x\n", images={"docker.io/library/x:latest": ContainerConfig(env=("PATH=/p",))}).config.config.env == ("PATH=/p",)


def test_what_the_base_sets_holds_for_run() -> None:
    images = {"docker.io/library/x:latest": ContainerConfig(env=("PATH=/p",), working_dir="/w", user="u", shell=("/bin/bash", "-c"))}
    (op,) = runs(lowered("FROM x\nRUN 1\n", images=images))
    assert (op.cwd, op.user, op.args) == ("/w", "u", ("/bin/bash", "-c", "1"))


# ONBUILD


BASE = "docker.io/library/x:latest"


def onbuild(*triggers: str) -> dict[str, ContainerConfig]:
    return {BASE: ContainerConfig(env=(PATH,), working_dir="/", on_build=triggers)}


def test_triggers_of_an_image_run_first_and_once() -> None:
    found = lowered("FROM x AS a\nRUN own\nFROM a\nRUN last\n", images=onbuild("RUN one", "ENV T=1"))
    assert [op.args[-1] for op in runs(found)] == ["one", "own", "last"]
    assert found.config.config.on_build is None
    row = step(found, "RUN one")
    assert row.step.trigger
    assert row.step.line == 1
    assert row.vertex is not None
    assert row.vertex.name.endswith("ONBUILD RUN one")


def test_triggers_of_a_stage() -> None:
    found = lowered("FROM x AS a\nONBUILD RUN trigger\nRUN a\nFROM a AS b\nRUN b\nFROM b\n")
    assert [op.args[-1] for op in runs(found)] == ["a", "trigger", "b"]
    assert step(found, "RUN trigger").step.line == 4


def test_onbuild_stands_in_the_config_without_history() -> None:
    found = lowered("FROM x\nONBUILD RUN a\nONBUILD COPY . /\n")
    assert found.config.config.on_build == ("RUN a", "COPY . /")
    assert history(found) == []


def test_a_trigger_may_need_an_image_whose_stage_has_triggers() -> None:
    text = "FROM y AS helper\nRUN helper\nFROM x\nRUN own\n"
    images = onbuild("COPY --from=helper /h /") | {
        "docker.io/library/y:latest": ContainerConfig(env=(PATH,), on_build=("COPY --from=z /z /",)),
    }
    assert commands(text, images=images) == ["helper", "own"]
    assert {name for name, _ in references(text, images=images)} == {f"docker.io/library/{n}:latest" for n in "xyz"}


@pytest.mark.parametrize("trigger", ["FROM y", "NONSENSE", "RUN a\nRUN b", ""])
def test_a_broken_trigger_is_refused_at_the_from(trigger: str) -> None:
    assert refused("ARG A\nFROM x\nRUN 1\n", images=onbuild(trigger)).spans[0].line == 2


def test_a_broken_trigger_of_a_stage_that_nothing_stands_on_is_no_matter() -> None:
    assert commands("FROM x AS a\nONBUILD RUN --nonsense a\nFROM a AS b\nFROM x\nRUN 1\n") == ["1"]


def test_a_trigger_may_be_a_trigger() -> None:
    assert lowered("FROM x\n", images=onbuild("ONBUILD RUN a")).config.config.on_build == ("RUN a",)


# Named contexts


def test_a_directory_stands_for_an_image_under_every_spelling() -> None:
    for written in ("alpine", "alpine:latest", "docker.io/library/alpine"):
        found = lowered(f"FROM {written}\nRUN 1\n", Options(contexts=frozenset({"alpine"})))
        assert [type(v.op) for v in walk((found.target,))] == [ContextOp, FileOp, ExecOp]
        assert found.config.config.env == (PATH,)


def test_another_tag_is_another_name() -> None:
    assert references("FROM alpine:3\n", Options(contexts=frozenset({"alpine"}))) == [("docker.io/library/alpine:3", AMD)]


def test_a_context_stands_for_the_whole_stage() -> None:
    text = "FROM x AS deps\nRUN install\nENV A=1\nFROM y\nCOPY --from=deps /d /\nRUN own\n"
    options = Options(images={"deps": "docker-image://ready:1"})
    assert commands(text, options) == ["own"]
    assert [name for name, _ in references(text, options)] == ["docker.io/library/y:latest", "docker.io/library/ready:1"]
    found = lowered(text, options)
    assert [row.needed for row in found.steps] == [True, False, False, True, True, True]


def test_a_stage_upon_a_replaced_stage() -> None:
    options = Options(images={"deps": "ready"})
    ready = {"docker.io/library/ready:latest": ContainerConfig(env=("R=1",), user="u", on_build=("RUN never",))}
    found = lowered("FROM x AS deps\nRUN install\nFROM deps\nRUN own\n", options, ready)
    (op,) = runs(found)
    assert (op.args[-1], op.env, op.user) == ("own", ("R=1", PATH), "u")


def test_a_replaced_stage_as_the_target() -> None:
    found = lowered("FROM x AS deps\nRUN install\n", Options(contexts=frozenset({"deps"})))
    assert runs(found) == []
    assert found.config.config == ContainerConfig()


def test_copy_and_mounts_from_a_named_context() -> None:
    found = lowered("FROM x\nCOPY --from=src /a /\nRUN --mount=from=src,target=/s true\n", Options(contexts=frozenset({"src"})))
    assert [v.op for v in vertices(found, ContextOp)] == [ContextOp("src")]


def test_an_image_may_be_replaced_by_nothing_or_a_layout() -> None:
    assert lowered("FROM x\n", Options(images={"x": "docker-image://scratch"})).target is None
    document = parse("FROM x\n")
    assert lower(document, Options(images={"x": "oci-layout:///srv/l:1"}), {}) == Needs(frozenset({("oci-layout:///srv/l:1", AMD)}))


def test_scratch_and_context_are_never_replaced() -> None:
    options = Options(contexts=frozenset({"scratch"}), images={"context": "y"})
    assert lowered("FROM scratch\n", options).target is None
    assert [v.op for v in vertices(lowered("FROM scratch\nCOPY a /\n", options), ContextOp)] == [ContextOp("context")]


def test_labels_of_the_request_come_last() -> None:
    found = lowered("FROM x\nLABEL a=1 b=2\n", Options(labels={"b": "3", "c": "4"}))
    assert found.config.config.labels == {"a": "1", "b": "3", "c": "4"}
    assert history(found) == ["LABEL a=1 b=2"]


def test_many_stages_are_no_trouble() -> None:
    text = "FROM x AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\nRUN {n}\n" for n in range(1500))
    assert len(commands(text)) == 1500


def test_base_history_and_layers_are_counted_apart() -> None:
    found = lowered("FROM x\nENV A=1\nRUN 1\nWORKDIR /\nWORKDIR /w\n")
    assert [entry.empty_layer for entry in found.config.history] == [True, False, True, False]
    assert [vertex is not None for vertex in found.history_vertices] == [False, True, False, True]


def test_stub_is_what_the_rest_assumes() -> None:
    assert lowered("FROM x\n").config.config == STUB
